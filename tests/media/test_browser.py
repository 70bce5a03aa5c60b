"""Annotated videos in a real browser, where there is one."""

import json
import os
import shutil
import signal
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from faceflax.media import outputs
from faceflax.media.sources import open_source

from .clips import levels, write_clip

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PAGE = """<video id="v" muted preload="auto"></video><canvas id="c" width="8" height="8"></canvas><script>
const report = (result) => fetch("/", {method: "POST", body: JSON.stringify(result)});
v.onerror = () => report({error: v.error.code + " " + v.error.message});
v.onended = () => {
  const context = c.getContext("2d");
  context.drawImage(v, 0, 0, 8, 8);
  report({
    time: v.currentTime, width: v.videoWidth, height: v.videoHeight, sound: v.webkitAudioDecodedByteCount,
    frames: v.getVideoPlaybackQuality().totalVideoFrames, level: context.getImageData(4, 4, 1, 1).data[0],
  });
};
v.src = "/VIDEO"; v.play();
</script>"""


class Handler(SimpleHTTPRequestHandler):
    def do_POST(self):
        self.server.results.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.server.told.set()

    def log_message(self, *_):
        pass


def play(folder, name):
    """What the browser says of a video that it played to its end."""
    (folder / "page.html").write_text(PAGE.replace("VIDEO", name))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.results, server.told = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        quiet = "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
        browser = subprocess.Popen(
            [
                *(CHROMIUM, *options.split(), *quiet.split(), f"--user-data-dir={folder / 'profile'}"),
                f"http://127.0.0.1:{server.server_port}/page.html",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert server.told.wait(60), "the browser did not answer"
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            server.shutdown()
            thread.join()
    return server.results[0]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("suffix", "cut"), [(".mp4", False), (".webm", False), (".mp4", True)], ids=["mp4", "webm", "mp4 cut off"]
)
def test_it_plays_in_a_browser_with_its_sound(tmp_path, suffix, cut):
    source = open_source(str(write_clip(tmp_path / "v.mp4", 20, size=(128, 96), tone=True)))
    name = f"o{suffix}"
    with outputs.annotated(source, tmp_path / name) as write:
        for frame in source.frames:
            write(frame, frame.image)
    if cut:  # as a kill leaves it: without its last fragment
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: content.rfind(b"moof") - 4])
    told = play(tmp_path, name)
    assert "error" not in told, told
    assert (told["width"], told["height"]) == (128, 96)
    assert told["sound"] > 1000
    if cut:
        assert 0.5 < told["time"] < 2
        return
    assert told["time"] == pytest.approx(2, abs=0.2)
    assert told["frames"] >= 15  # a busy machine drops some
    np.testing.assert_allclose(told["level"], levels(20)[-1], atol=8)
