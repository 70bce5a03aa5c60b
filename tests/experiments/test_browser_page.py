"""The page that runs the exported networks in a browser, in a real one, with a camera that plays a video."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading

import numpy as np
import pytest

import faceflax
from experiments.tools import browser_page
from faceflax.errors import FaceflaxError
from faceflax.faces import NetworkDetector
from faceflax.media import demo
from faceflax.opencv import cv2

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120_000  # milliseconds


def test_a_missing_runtime_is_one_sentence_with_the_remedy(tmp_path):
    with pytest.raises(FaceflaxError, match="npm install"):
        browser_page.main(browser_page.Options(output=tmp_path / "page", runtime=tmp_path))
    assert not (tmp_path / "page").exists()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    options = browser_page.Options(output=tmp_path_factory.mktemp("page"))
    if not options.runtime.exists():
        pytest.skip("onnxruntime-web is not installed: npm install --prefix docs/browser")
    browser_page.main(options)
    camera = tmp_path_factory.mktemp("camera") / "face.y4m"
    with camera.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H360 F10:1 Ip A1:1 C420\n")
        for frame in list(demo.video())[::8]:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(options.output))
    fakes = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    asked, broken = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, playwright.sync_playwright() as running:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        words = ["--no-sandbox", *fakes, f"--use-file-for-fake-video-capture={camera}"]
        browser = running.chromium.launch(executable_path=CHROMIUM, args=words)
        opened = browser.new_page(viewport={"width": 900, "height": 700})
        opened.set_default_timeout(PATIENCE)
        opened.on("request", lambda request: asked.append(request.url))
        opened.on("pageerror", lambda error: broken.append(str(error)))
        opened.goto(address)
        opened.get_by_text("Ready.").wait_for()
        yield opened
        browser.close()
        server.shutdown()
        thread.join()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not broken


@pytest.mark.slow
def test_a_picture_has_the_librarys_faces_and_probabilities(page):
    picture = cv2.imencode(".png", demo.photograph())[1].tobytes()
    page.locator("#file").set_input_files({"name": "face.png", "mimeType": "image/png", "buffer": picture})
    page.locator("section").wait_for()
    assert page.locator("section").count() == 1
    said = json.loads(page.locator("section").get_attribute("data-face"))
    detector = NetworkDetector(max_side=384)  # as the page does; boxes are a little larger at a larger scale
    (face,) = faceflax.FaceAnalyzer(preset="fast", detector=detector)(demo.photograph())
    size = max(face.box[2:])
    np.testing.assert_allclose(said["box"], face.box, atol=0.05 * size)
    # A browser reduces pictures in a way of its own, so the pixels differ a little.
    for kind, right in (("emotion", face.emotion_probabilities), ("gender", face.gender_probabilities)):
        assert [label for label, _ in said[kind]] == list(faceflax.EMOTIONS if kind == "emotion" else faceflax.GENDERS)
        np.testing.assert_allclose([share for _, share in said[kind]], right, atol=0.12)
    assert f"perceived as {face.emotion}" in page.locator("h2").inner_text()


@pytest.mark.slow
def test_what_is_no_picture_gets_a_sentence(page):
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"%PDF-1.4"})
    page.get_by_text("a.png is not a picture").wait_for()


@pytest.mark.slow
def test_the_camera_shows_faces_until_it_is_stopped(page):
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_text("ms a picture").wait_for()
    page.locator("section").first.wait_for()
    page.get_by_role("button", name="Stop the camera").click()
    page.get_by_role("button", name="Start the camera").wait_for()
