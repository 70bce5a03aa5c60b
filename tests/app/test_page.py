"""The page in a real headless browser, with a camera that plays a video."""

from __future__ import annotations

import csv
import importlib
import itertools
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import parse_qsl

import jax
import numpy as np
import pytest

import faceflax
from faceflax import app, models, pretrained
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media import demo, outputs
from faceflax.media.sources import open_source
from faceflax.opencv import cv2
from interpret.workbench import Workbench

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="the extra app is not installed")
uvicorn = pytest.importorskip("uvicorn")
contents = importlib.import_module("faceflax.app.page")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.filterwarnings("default"),  # of Gradio's own
]
WEIGHTS = "mini_xception-fer2013"
TASK = ("glasses", "hat", "none")
PATIENCE = 60_000  # milliseconds

# Text whose contrast with what is behind it is below the 4.5 (large: 3) of WCAG 2.2, success criterion 1.4.3.
PALE = r"""() => {
  const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const light = (c) => c.map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  const level = (c) => { const [r, g, b] = light(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3) { layers.push(c); break; }
      if (c[3] > 0) layers.push(c);
    }
    return layers.reverse().reduce((under, c) => over(c, under), [255, 255, 255]);
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (e.closest("script, style, svg, :disabled, canvas")) continue;
    const box = e.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    const style = getComputedStyle(e), below = behind(e);
    const [one, other] = [level(over(parse(style.color), below)), level(below)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < least) bad.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)} ${style.color} ${below.map(Math.round)}`);
  }
  return [...new Set(bad)];
}"""


def looks_right(page):
    """Nothing reaches beyond a phone's, a tablet's or a desktop's width; all text can be read, in light and dark."""
    before = page.viewport_size
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(300)
        reached = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert reached <= 0, (width, reached)
    page.set_viewport_size(before)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
        page.wait_for_timeout(500)  # colours pass over
        assert page.evaluate(PALE) == []


@pytest.fixture(scope="module")
def bench():
    return Workbench([WEIGHTS, "mini_xception-fairface"])


@pytest.fixture(scope="module")
def analyzer(tmp_path_factory):
    """The usual networks and a third one, untrained, with labels of its own."""
    model = models.create("mini_xception", len(TASK))
    variables = jax.device_get(models.init(model, jax.random.key(3), 48))
    file = tmp_path_factory.mktemp("task") / "task.safetensors"
    pretrained.save(file, variables, arch="mini_xception", dataset="folder/x", labels=TASK, image_size=48)
    return faceflax.FaceAnalyzer(preset="fast", task=file)


@pytest.fixture(scope="module")
def address(bench, analyzer):
    limits = app.Limits(megabytes=3, video_seconds=1)
    with app.scratch() as folder, app.bind("127.0.0.1", 0) as taken:
        application = app.make_app(
            analyzer, analyzer, limits, version="0", task_labels=analyzer.task_labels, workbench=lambda: bench
        )
        config = uvicorn.Config(application, log_level="warning", ws="none", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert any(folder.iterdir())  # uploads went here and nowhere else
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    camera = tmp_path_factory.mktemp("camera") / "face.y4m"
    with camera.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H360 F10:1 Ip A1:1 C420\n")
        for frame in list(demo.video())[::8]:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes())
    fakes = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", *fakes, f"--use-file-for-fake-video-capture={camera}"]
        started = running.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    asked, broken = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(address)
    opened.get_by_role("button", name="Try a portrait").first.wait_for()
    yield opened
    context.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not broken


def uploaded(page, name, content):
    page.locator(".upload input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def test_a_picture_gets_boxes_bars_and_an_explanation_at_a_click(page, analyzer):
    page.get_by_role("button", name="Try a portrait").first.click()
    section = page.locator(".faces-said section")
    section.first.wait_for()
    (face,) = analyzer(demo.photograph())
    assert section.count() == 1
    assert f"perceived as {face.emotion}, {face.gender}, {face.task}" in section.inner_text()
    assert section.locator("th").all_inner_texts() == [*EMOTIONS, *GENDERS, *TASK]
    shares = [int(text.rstrip("%")) for text in section.locator("td:last-child").all_inner_texts()]
    right = [*face.emotion_probabilities, *face.gender_probabilities, *face.task_probabilities]
    np.testing.assert_allclose(shares, 100 * np.array(right), atol=0.51)

    page.locator(".image-frame.selectable img").last.click()
    page.locator("#clicked h3").wait_for()
    assert f"reads '{face.emotion}' from" in page.locator("#clicked h3").inner_text()
    assert page.locator("#chosen input").is_checked()
    looks_right(page)


def test_by_keyboard_alone(page, analyzer):
    def to(target):
        for _ in range(40):
            page.keyboard.press("Tab")
            if target.evaluate("each => each === document.activeElement"):
                return
        raise AssertionError(f"no way to {target}")

    to(page.get_by_role("tab", name="Picture"))
    to(page.get_by_role("button", name="Try a portrait").first)
    page.keyboard.press("Enter")
    page.locator("#chosen input").wait_for()
    to(page.locator("#chosen input"))
    page.keyboard.press("Space")
    page.locator("#clicked h3").wait_for()
    (face,) = analyzer(demo.photograph())
    assert f"reads '{face.emotion}' from" in page.locator("#clicked h3").inner_text()


def test_bad_pictures_get_a_sentence(page):
    page.get_by_role("button", name="Try a portrait").first.click()
    page.locator(".faces-said section").wait_for()
    uploaded(page, "really.png", b"%PDF-1.4\n%%EOF")
    page.get_by_role("alert").get_by_text("is not a picture; send a JPEG").wait_for()
    assert page.locator(".faces-said").count() == 0  # what was found in the picture before is gone
    page.get_by_role("button", name="Try a portrait").first.click()
    page.locator(".faces-said section").wait_for()
    uploaded(page, "large.png", bytes(3 * 2**20 + 1))
    page.get_by_text("exceed the maximum allowed size of 3.0 Mb").wait_for()
    page.locator(".faces-said").wait_for(state="detached")


def test_methods_side_by_side_with_both_floors_and_a_link_that_restores_them(page, address, browser):
    page.get_by_role("tab", name="Explain").click()
    page.get_by_role("button", name="Try a portrait").click()
    page.locator(".upload img").last.wait_for()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("dl dt").first.wait_for()
    names = page.locator("dl dt").all_inner_texts()
    assert names == ["guided_backprop", "integrated_gradients", "grad_cam", "edges", "random"]
    assert "it is no evidence" in page.locator("dl dd").first.inner_text()
    looks_right(page)
    link = page.locator("#link textarea")
    page.wait_for_function("field => field.value.includes('methods=')", arg=link.element_handle())
    again = browser.new_page()
    again.goto(link.input_value().replace("last_conv", "block4").replace("predicted", "happy"))
    again.get_by_label("Layer").wait_for(timeout=PATIENCE)
    again.wait_for_function(
        "field => field.value === 'block4'", arg=again.get_by_label("Layer").element_handle(), timeout=PATIENCE
    )
    assert again.get_by_label("Target").input_value() == "happy"
    again.close()


def test_the_camera_shows_faces(page):
    page.get_by_role("tab", name="Camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_text("Record").first.click()
    page.locator(".faces-said section").first.wait_for()
    looks_right(page)


@pytest.mark.parametrize(
    ("browsers", "said"),
    [
        (
            ["--use-fake-device-for-media-stream", "--deny-permission-prompts"],
            "The browser refused the camera: allow it",
        ),
        (["--use-fake-ui-for-media-stream"], "There is no camera that can be used (NotFoundError)"),
    ],
)
def test_no_camera_gets_a_sentence(browser, address, browsers, said):
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", *browsers])
    page = other.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("tab", name="Camera").click()
    page.get_by_text("Click to Access Webcam").wait_for()
    assert not page.locator("#camera-said").is_visible()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_role("alert").get_by_text(said).wait_for()
    other.close()


def test_a_video_that_is_none_is_called_by_its_own_name(page):
    page.get_by_role("tab", name="Video").click()
    page.locator("#video input[type=file]").set_input_files(
        {"name": "really.mp4", "mimeType": "video/mp4", "buffer": b"%PDF-1.4\n%%EOF"}
    )
    page.get_by_text("really").first.wait_for()
    page.get_by_role("button", name="Analyze").click()
    page.get_by_role("alert").get_by_text("video: 'really.mp4' cannot be read as a video").wait_for()


def test_a_video_comes_back_annotated_with_timeline_and_table(page, tmp_path):
    clip = tmp_path / "clip.mp4"
    with outputs.annotated(open_source("demo"), clip) as write:
        for frame in itertools.islice(open_source("demo").frames, 30):
            write(frame, frame)
    page.get_by_role("tab", name="Video").click()
    page.locator("#video input[type=file]").set_input_files(clip)
    page.get_by_text("clip").first.wait_for()
    page.get_by_role("button", name="Analyze").click()
    with page.expect_download() as download:
        page.locator("#table a[download]").first.click()
    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["frame"] for row in rows} == {str(number) for number in range(26)}  # a second, as the limit says
    page.wait_for_function("document.querySelector('video')?.readyState >= 2")
    looks_right(page)


def test_the_page_about_http_fits_a_phone(page, address):
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{address}docs")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(PALE) == []


def test_settings_survive_a_link(bench):
    settings = {
        "weights": WEIGHTS,
        "methods": ["gradient", "rise"],
        "layer": "block2",
        "target": "highest activation",
        "metrics": True,
    }
    assert contents.settings_of(dict(parse_qsl(contents.query_of(settings))), bench) == settings
    assert contents.settings_of(dict(parse_qsl(contents.query_of(settings | {"layer": "nowhere"}))), bench) is None
    assert contents.settings_of({}, bench) is None


def test_nothing_is_written_beside_the_module():
    assert not list(Path(faceflax.__file__).parent.rglob("*.pyi"))
