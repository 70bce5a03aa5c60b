"""``faceflax app`` under load: does every request get its answer, does the server grow, how long does an answer take?

Command: ``python -m experiments.load_app --requests 2000 --clients 4``

Starts the command as a user does, on a free port of this machine, and sends the demo's photograph to ``/v1/analyze``
from several clients at once. Every answer has to be the first one's, and the server must not grow after the first
quarter of them. Beside the answers' times stand those of the same work by the library, one call after the other:
decoding the picture, finding and labelling faces.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from faceflax.cli import run
from faceflax.cli.detection import PresetName
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np

SLACK = 32.0
"""MiB by which the server's memory may differ: threads and the allocator keep pages, and they come and go."""


@dataclass(frozen=True)
class Options:
    """Ask a server many times at once and say what came back, and how fast; exit with 2 if anything was wrong."""

    requests: int = 2000
    """How many, of all clients together; 16 or more."""
    clients: int = 4
    """How many ask at the same time."""
    preset: PresetName = "fast"
    """Which networks: fast, or accurate."""
    calls: int = 100
    """How often the library is called for comparison."""


def main(options: Options) -> None:
    """Starts the server, asks, and prints."""
    if options.requests < 16:
        raise FaceflaxError("requests", options.requests, "is too few to conclude anything", "give 16 or more")
    if not 1 <= options.clients <= 32:
        raise FaceflaxError("clients", options.clients, "is not a number of clients", "give 1 to 32")
    if options.calls < 1:
        raise FaceflaxError("calls", options.calls, "is too few", "give 1 or more")

    import time
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from faceflax import FaceAnalyzer
    from faceflax.media.demo import photograph
    from faceflax.opencv import cv2

    picture = cv2.imencode(".jpg", photograph())[1].tobytes()
    command = [sys.executable, "-m", "faceflax", "app", "--port", "0", "--no-browser", "--quiet"]
    with subprocess.Popen([*command, "--preset", options.preset], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = urlsplit(server.stdout.readline().strip())
            port = address.port
            if port is None:
                raise FaceflaxError("app", None, "did not start, see above", "install faceflax[app]")
            first = ask(port, picture)[1]
            quarter = options.requests // 4
            with ThreadPoolExecutor(options.clients) as pool:
                begin = time.perf_counter()
                answers = list(pool.map(lambda _: ask(port, picture), range(quarter)))
                settled = resident(server.pid)
                answers += pool.map(lambda _: ask(port, picture), range(options.requests - quarter))
                seconds = time.perf_counter() - begin
            end = resident(server.pid)
        finally:
            server.terminate()
    wrong = sum(answer != first for _, answer in answers)

    analyzer = FaceAnalyzer(preset=options.preset)
    calls = []
    for _ in range(options.calls + 1):
        begin = time.perf_counter()
        frame = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert frame is not None  # it was encoded above
        analyzer(frame)
        calls.append(time.perf_counter() - begin)
    print(f"{options.requests} requests of {options.clients} clients, {options.requests / seconds:.1f} a second")
    print(f"answers that are not the first one's: {wrong}")
    print(f"server's memory: {settled:.0f} MiB after a quarter, {end:.0f} MiB at the end ({end - settled:+.1f})")
    print(f"answer:       {_percentiles(np.array([each for each, _ in answers]))}")
    print(f"library call: {_percentiles(np.array(calls[1:]))}")
    if wrong or end - settled > SLACK:
        raise FaceflaxError("requests", options.requests, "left something that must not be, see above", "look into it")


def ask(port: int, picture: bytes) -> tuple[float, Any]:
    """Sends a picture to a server on this machine; returns the seconds that took, and the faces or what went wrong."""
    import http.client
    import json
    import time

    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/v1/analyze", picture, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        content = answer.read()
    except OSError as error:
        return time.perf_counter() - begin, repr(error)
    finally:
        connection.close()
    took = time.perf_counter() - begin
    return took, json.loads(content)["faces"] if answer.status == 200 else f"{answer.status} {content[:200]!r}"


def resident(process: int) -> float:
    """Returns the memory that a process has in use, in MiB; only Linux says."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except FileNotFoundError:
        problem = "does not say how much memory a process has"
        raise FaceflaxError("system", sys.platform, problem, "run it on Linux") from None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _percentiles(seconds: np.ndarray) -> str:
    import numpy as np

    shares = (50, 90, 99, 100)
    return ", ".join(
        f"{p}% {1000 * value:.0f} ms" for p, value in zip(shares, np.percentile(seconds, shares), strict=True)
    )


if __name__ == "__main__":
    run(main, Options)
