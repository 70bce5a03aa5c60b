"""The REST interface of a real server on a free port, asked by several threads, against the library's own answers."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import faceflax
from faceflax import app, models, pretrained
from faceflax.app.guard import Guard
from faceflax.errors import FaceflaxError
from faceflax.media.demo import photograph
from faceflax.media.images import encode

pytest.importorskip("fastapi", reason="the extra app is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra app is not installed")

TOKEN = "a secret of 24 letters.."
LIMITS = app.Limits(megabytes=2, upload_seconds=1.5)


class Server:
    """An ASGI application behind a real socket."""

    def __init__(self, application):
        self.taken = app.bind("127.0.0.1", 0)
        self.port = self.taken.getsockname()[1]
        config = uvicorn.Config(application, log_level="warning", ws="none", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.taken]})

    def __enter__(self):
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()
        self.taken.close()

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content


@pytest.fixture(scope="module")
def analyzer():
    return faceflax.FaceAnalyzer(preset="fast")


@pytest.fixture(scope="module")
def server(analyzer):
    with Server(Guard(app.make_api(analyzer, LIMITS, "1.2.3"))) as running:
        yield running


def pictures():
    """Pictures of zero, one and two faces, in three formats."""
    face = photograph()
    pair = np.concatenate([face, face[:, ::-1]], 1)
    nothing = np.full((90, 120, 3), 127, np.uint8)
    return [encode(face, ".png"), encode(pair, ".bmp"), encode(nothing, ".webp")]


def test_threads_get_what_the_library_says(server, analyzer):
    from faceflax.media.images import read_image

    sent = pictures() * 6
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda content: server.ask("POST", "/v1/analyze", content), sent))
    counts = []
    for content, (answer, said) in zip(sent, answers, strict=True):
        assert answer.status == 200, said
        said = json.loads(said)
        image = read_image(content).image
        assert (said["schema"], said["width"], said["height"]) == (1, image.shape[1], image.shape[0])
        faces = analyzer(image)
        assert len(said["faces"]) == len(faces)
        counts.append(len(faces))
        for number, (row, face) in enumerate(zip(said["faces"], faces, strict=True)):
            right = face.to_dict()
            assert row["face"] == number
            assert set(row) == {"face", *right}
            for name, value in right.items():
                assert row[name] == (pytest.approx(value, abs=0.051) if isinstance(value, float) else value), name
    assert sorted(set(counts)) == [0, 1, 2]


def test_a_third_task_is_among_the_answers(tmp_path):
    model = models.create("mini_xception", 2)
    variables = jax.device_get(models.init(model, jax.random.key(3), 48))
    file = tmp_path / "task.safetensors"
    pretrained.save(file, variables, arch="mini_xception", dataset="folder/x", labels=("hat", "none"), image_size=48)
    with_task = faceflax.FaceAnalyzer(preset="fast", task=file)
    (face,) = with_task(photograph())
    with Server(app.make_api(with_task, LIMITS, "0")) as running:
        (row,) = json.loads(running.ask("POST", "/v1/analyze", encode(photograph(), ".png"))[1])["faces"]
    assert (row["task"], row["sure_task"]) == (face.task, face.sure_task)
    assert row["task_probability"] == pytest.approx(face.task_probabilities.max(), abs=1e-4)


def test_a_large_picture_is_answered_in_its_own_pixels(analyzer):
    small, large = app.Limits(max_side=300), app.Limits()
    content = encode(photograph(), ".png")
    answers = []
    for limits in (small, large):
        with Server(app.make_api(analyzer, limits, "0")) as running:
            answers.append(json.loads(running.ask("POST", "/v1/analyze", content)[1]))
    assert (answers[0]["width"], answers[0]["height"]) == (512, 600)
    boxes = [[answer["faces"][0][name] for name in ("x", "y", "width", "height")] for answer in answers]
    np.testing.assert_allclose(*boxes, atol=20)


def test_a_form_with_a_file(server):
    content = encode(photograph(), ".png")
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="me.png"\r\n\r\n' + content + b"\r\n--b--\r\n"
    answer, said = server.ask("POST", "/v1/analyze", body, Content_Type="multipart/form-data; boundary=b")
    assert answer.status == 200, said
    assert len(json.loads(said)["faces"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "picture: 'picture' is empty; send a picture"),
        (b"%PDF-1.4\n%%EOF", 400, "picture: 'picture' is not a picture; send a JPEG"),
        (encode(photograph(), ".png")[:5000], 400, "cannot be read as an image"),
        (bytes(2 * 2**20 + 1), 413, "picture: 'picture' has more than 2 MB; reduce it"),
    ],
    ids=["empty", "PDF", "cut off", "too large"],
)
def test_bad_uploads_get_a_sentence(server, body, status, said):
    answer, content = server.ask("POST", "/v1/analyze", body, Content_Type="image/png")
    assert answer.status == status
    assert said in json.loads(content)["detail"]
    assert server.ask("GET", "/healthz")[0].status == 200


def test_an_upload_that_does_not_end_is_given_up(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"POST /v1/analyze HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc")
        answer = connection.recv(4096)
    assert b" 408 " in answer.splitlines()[0]


def test_it_says_that_it_is_there_and_what_it_can_do(server):
    assert json.loads(server.ask("GET", "/healthz")[1]) == {"status": "ok", "version": "1.2.3"}
    described = json.loads(server.ask("GET", "/openapi.json")[1])
    assert set(described["paths"]) == {"/v1/analyze", "/healthz"}
    answer, page = server.ask("GET", "/docs")
    assert answer.getheader("Content-Security-Policy").startswith("default-src 'self'")
    for word in (b"/v1/analyze", b"emotion_happy", b"openapi.json", b"it is too large"):
        assert word in page
    assert b"https://" not in page


def test_a_page_of_another_site_cannot_ask(server):
    answer, said = server.ask("GET", "/healthz", Host="evil.example:80")
    assert (answer.status, said) == (403, b"This server answers only to requests of its own machine.")


def test_a_token_is_asked_for(analyzer):
    with Server(Guard(app.make_api(analyzer, LIMITS, "0"), TOKEN)) as running:
        assert running.ask("GET", "/healthz")[0].status == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "faceflax_token=wrong"}):
            answer, said = running.ask("GET", "/docs", **headers)
            assert answer.status == 401
            assert b"needs its token" in said
        assert running.ask("GET", "/docs", Authorization=f"Bearer {TOKEN}")[0].status == 200
        answer, _ = running.ask("GET", f"/docs?token={TOKEN.replace(' ', '%20')}&a=1")
        assert (answer.status, answer.getheader("Location")) == (303, "/docs?a=1")
        cookie = answer.getheader("Set-Cookie")
        assert "HttpOnly" in cookie
        assert running.ask("GET", "/docs", Cookie=cookie.partition(";")[0])[0].status == 200


def test_a_port_in_use_another_host_and_a_weak_token_get_a_sentence():
    with app.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FaceflaxError, match=f"port: {port} is in use; give another, or 0 for any that is free"):
            app.bind("127.0.0.1", port)
    with pytest.raises(FaceflaxError, match=r"host: '0\.0\.0\.0' is reached by other machines; add --token SECRET"):
        app.bind("0.0.0.0", 0)
    with pytest.raises(FaceflaxError, match="token: is too short to be a secret"):
        app.bind("0.0.0.0", 0, "short")
    with pytest.raises(FaceflaxError, match="port: 70000 is not a port"):
        app.bind("127.0.0.1", 70000)


def test_limits_are_checked():
    with pytest.raises(FaceflaxError, match="megabytes: 0 is not above 0"):
        app.Limits(megabytes=0)


def test_what_the_page_kept_is_gone_afterwards():
    with app.scratch() as folder:
        (folder / "upload.png").write_bytes(b"x")
    assert not Path(folder).exists()
