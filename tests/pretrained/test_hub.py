"""Weights on the Hub, which here is a small server on loopback that keeps what it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import faceflax
from faceflax import pretrained
from faceflax.errors import FaceflaxError
from faceflax.pretrained import hub

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # of the client's own

COMMIT = "0" * 39 + "1"
NAME = "mini_xception-fairface"


class Hub(BaseHTTPRequestHandler):
    """What the client asks of the Hub to make a repository, write to it and read it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        files = self.server.files
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            files.setdefault(name, {})
            self.answer({"url": f"{self.server.address}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            sent = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in sent]})
        elif self.path.endswith("/commit/main"):
            repo = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/{repo}/commit/{COMMIT}"
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.answer({"error": "?"}, 404)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").partition("/revision/")[0].partition("/tree/")[0]
            if repo not in self.server.files:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                return
            names = self.server.files[repo]
            if "/tree/" in path:
                entries = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in names.items()]
                self.answer(entries)
                return
            self.answer({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
            return
        repo, _, rest = path.strip("/").partition("/resolve/")
        content = self.server.files.get(repo, {}).get(rest.partition("/")[2])
        if content is None:
            self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def server(monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        running.files, running.tokens = {}, set()
        running.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.fetch.cache_clear()
        yield running
        hub.fetch.cache_clear()
        running.shutdown()
        thread.join()


def test_what_was_pushed_is_loaded_again(server):
    written = faceflax.push_to_hub(NAME, "someone/genders", token="hf_secret")
    assert written.endswith(f"someone/genders/commit/{COMMIT}")
    assert server.tokens == {"Bearer hf_secret"}
    files = server.files["someone/genders"]
    assert set(files) == {f"{NAME}.safetensors", f"{NAME}.json", "README.md"}
    loaded, original = faceflax.load("hf://someone/genders"), faceflax.load(NAME)
    assert loaded.info == original.info
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 1)).astype(np.float32)
    np.testing.assert_array_equal(faceflax.compile(*loaded)(images), faceflax.compile(*original)(images))


def test_changed_weights_are_refused(server):
    faceflax.push_to_hub(NAME, "someone/genders", token="hf_secret")
    content = server.files["someone/genders"][f"{NAME}.safetensors"]
    server.files["someone/genders"][f"{NAME}.safetensors"] = content[:-4] + b"\0\0\0\1"
    with pytest.raises(FaceflaxError, match="but its record says"):
        faceflax.load("hf://someone/genders")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf://someone", "weights: 'someone' is not OWNER/NAME; name it so"),
        ("hf://someone/nothing", "weights: 'hf://someone/nothing' cannot be fetched"),
        ("hf://someone/empty", "weights: 'hf://someone/empty' holds 0 weights files with a record, not one"),
    ],
)
def test_what_is_not_there_gets_a_sentence(server, name, said):
    server.files["someone/empty"] = {"config.json": b"{}"}
    with pytest.raises(FaceflaxError) as raised:
        faceflax.load(name)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_repository_that_cannot_be_written_gets_a_sentence(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FaceflaxError, match=r"repo: 'a/b' cannot be written \(.*\); check name and token"):
        faceflax.push_to_hub(NAME, "a/b", token="hf_secret")
    with pytest.raises(FaceflaxError, match="repo: 'b' is not OWNER/NAME"):
        faceflax.push_to_hub(NAME, "b")


@pytest.mark.parametrize("name", pretrained.list_weights())
def test_cards_have_a_header_that_says_what_the_record_says(name):
    info = faceflax.weights_info(name)
    text = hub.card(info, pretrained.reading.SHIPPED / f"{name}.md")
    _, header, body = text.split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["license"] in ("other", "cc-by-4.0")
    assert told["datasets"] == [info.dataset]
    assert told["library_name"] == "faceflax"
    (entry,) = told["model-index"]
    values = {result["dataset"]["split"]: result["metrics"][0]["value"] for result in entry["results"]}
    assert values == {split: pytest.approx(share, abs=1e-6) for split, share in info.accuracy.items()}
    assert body.lstrip().startswith(f"# {name}\n")
    assert "## Licence" in body
    assert ("research" in body.rpartition("## Licence")[2]) == (told["license"] == "other")


def test_odd_names_stay_text(tmp_path):
    record = faceflax.weights_info(NAME)
    odd = type(record)(**{**vars(record), "dataset": "no: #1", "name": "yes"})
    told = yaml.safe_load(hub.card_header(odd, "mit").strip("-\n"))
    assert (told["datasets"], told["license"], told["model-index"][0]["name"]) == (["no: #1"], "mit", "yes")
    assert "# yes\n" in hub.card(odd, tmp_path / "none.md")
