"""What is found in folders and archives, made by the test, and what is said about the rest."""

import gzip
import io
import os
import signal
import socket
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceflax import batch
from faceflax.batch.archives import Archive
from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.media.table import read_rows

from ..media.clips import write_clip
from ..rights import nobody


def picture(kind="PNG", level=90, **options):
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (level, level, level)).save(file, kind, **options)
    return file.getvalue()


def animation(kind):
    frames = [Image.new("RGB", (64, 48), (level, level, level)) for level in (100, 180)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=200)
    return file.getvalue()


def images(frames):
    face = Face((1, 2, 30, 40), "sad", np.eye(7, dtype=np.float32)[4], "man", np.float32([0, 1]))
    return [[face] if frame.mean() > 50 else [] for frame in frames]


class Video:
    def locate(self, image):
        return None

    def read_batch(self, frames, located):
        return images(frames)


def run(paths, table, **options):
    inputs, others = batch.find_inputs(paths, **options)
    with batch.open_table(table, {}) as opened:
        recent = batch.analyze(inputs, opened, lambda: batch.Analyzers(images, Video))
        records = recent + others
        opened.complete(records)
    return {record.input: record for record in records}


def statuses(records):
    return {name: record.status for name, record in records.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_odd_names_of_members_are_read(here):
    content = picture()
    with zipfile.ZipFile("odd.zip", "w") as archive:
        for name in ("./a.png", "x//y.png", "album.png/", "../up.png", ".hidden.png"):
            archive.writestr(name, b"" if name.endswith("/") else content)
    assert statuses(run(["odd.zip"], here / "o.jsonl")) == {
        "odd.zip/./a.png": "done",
        "odd.zip/x//y.png": "done",
        "odd.zip/../up.png": "skipped",
        "odd.zip/.hidden.png": "skipped",
    }


@pytest.mark.parametrize("pack", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives_with_images_and_videos(here, pack):
    clip = write_clip(here / "clip.mp4", 20).read_bytes()
    files = {
        **{"b/video": clip, "a.jpg": picture("JPEG"), "c.png": picture(level=0), "anim.gif": animation("GIF")},
        **{"notes.txt": b"text", "bad.png": b"no image", "inner.zip": b"PK\x05\x06" + bytes(18), ".x.png": picture()},
    }
    path = Path("archive")  # its content tells that it is one
    if pack == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{pack[4:]}") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    records = run([path], Path("o.csv"))
    expected = {
        **{"b/video": "done", "a.jpg": "done", "c.png": "no face", "anim.gif": "done"},
        **{"notes.txt": "skipped", "bad.png": "failed", "inner.zip": "failed", ".x.png": "skipped"},
    }
    if pack != "zip":
        expected["link.png"] = "failed"
    assert statuses(records) == {f"archive/{name}": status for name, status in expected.items()}
    assert records["archive/b/video"].frames == 20
    assert records["archive/anim.gif"].frames == 2
    assert records["archive/inner.zip"].reason == "is an archive in an archive; unpack the outer one first"
    assert {row["input"] for row in read_rows(Path("o.csv"))} == {
        "archive/b/video",
        "archive/a.jpg",
        "archive/anim.gif",
    }


def encrypted_zip(path):
    """The header of a file says that it is encrypted; that is all that the reader looks at."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("secret.png", picture())
        archive.writestr("open.png", picture())
    content = bytearray(path.read_bytes())
    for tag, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(tag) + offset] |= 1
    path.write_bytes(content)


def test_an_encrypted_file_is_named_and_the_others_are_read(here):
    encrypted_zip(Path("a.zip"))
    records = run([Path("a.zip")], Path("o.csv"))
    assert statuses(records) == {"a.zip/open.png": "done", "a.zip/secret.png": "failed"}
    assert "is encrypted" in records["a.zip/secret.png"].reason


def test_a_damaged_animation_in_an_archive_does_not_hide_what_follows(here):
    Path("a.gif").write_bytes(animation("GIF"))
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.write("a.gif")
        archive.writestr("b.png", picture())
    content = Path("z.zip").read_bytes()
    Path("z.zip").write_bytes(content.replace(Path("a.gif").read_bytes()[-8:], bytes(8)))  # its checksum is another
    records = run([Path("z.zip")], Path("o.csv"))
    assert statuses(records) == {"z.zip/a.gif": "failed", "z.zip/b.png": "done"}
    assert "CRC" in records["z.zip/a.gif"].reason


def test_an_archive_cut_short_is_named(here):
    Path("m").mkdir()
    Path("m/a.png").write_bytes(picture())
    rng = np.random.default_rng(0)
    with tarfile.open("m/t.tar.gz", "w:gz") as archive:
        for index in range(5):
            info = tarfile.TarInfo(f"{index}.png")
            info.size = 50_000
            archive.addfile(info, io.BytesIO(rng.bytes(50_000)))
    with zipfile.ZipFile("m/z.zip", "w") as archive:
        archive.writestr("a.png", picture())
    for name in ("m/t.tar.gz", "m/z.zip"):
        Path(name).write_bytes(Path(name).read_bytes()[:-60])
    records = run([Path("m")], Path("o.csv"))
    assert records["m/a.png"].status == "done"
    for name in ("m/t.tar.gz", "m/z.zip"):
        assert records[name].status == "failed"
        assert "cannot be read as an archive" in records[name].reason


def test_a_member_that_unpacks_to_more_than_is_read_is_refused(here, monkeypatch):
    monkeypatch.setattr("faceflax.batch.archives.LARGEST", 1000)
    with zipfile.ZipFile("z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", picture() + bytes(10_000))
        archive.writestr("small.png", picture())
    records = run([Path("z.zip")], Path("o.csv"))
    assert statuses(records) == {"z.zip/bomb.png": "failed", "z.zip/small.png": "done"}


def test_a_compressed_file_that_is_no_archive_is_left_out(here):
    Path("m").mkdir()
    Path("m/a.png").write_bytes(picture())
    Path("m/log.gz").write_bytes(gzip.compress(b"lines of a log"))
    Path("m/paper.docx").write_bytes(b"PK\x03\x04" + bytes(100))
    Path("m/broken.zip").write_bytes(b"nothing of the kind")
    records = run([Path("m")], Path("o.csv"))
    assert statuses(records) == {
        **{"m/a.png": "done", "m/broken.zip": "failed", "m/log.gz": "skipped", "m/paper.docx": "skipped"}
    }


def test_include_and_exclude(here):
    for name in ("2023/a.jpg", "2024/a.jpg", "2024/b.png", "2024/c.jpg"):
        path = Path("m", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture("JPEG"))
    with zipfile.ZipFile("m/z.zip", "w") as archive:
        archive.writestr("2024/z.jpg", picture("JPEG"))
    records = run([Path("m")], Path("o.csv"), include=["2024/*", "*.zip"], exclude=["c.*"])
    assert {name: record.reason for name, record in records.items()} == {
        "m/2023/a.jpg": "does not match --include",
        "m/2024/a.jpg": None,
        "m/2024/b.png": None,
        "m/2024/c.jpg": "matches --exclude",
        "m/z.zip/2024/z.jpg": None,
    }


def test_what_cannot_be_opened_does_not_hold_up_the_others(here):
    Path("m/sub.mp4").mkdir(parents=True)
    Path("m/good.png").write_bytes(picture())
    Path("m/empty.jpg").touch()
    Path("m/text.jpg").write_text("not an image at all")
    Path("m/gone.jpg").symlink_to("nowhere")
    os.mkfifo("m/pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("m/socket.jpg")
        records = run([Path("m")], Path("o.csv"))
    reasons = {name: record.reason for name, record in records.items() if record.status == "failed"}
    assert records["m/good.png"].status == "done"
    assert len(records) == 6
    assert reasons["m/empty.jpg"] == "is empty"
    assert reasons["m/text.jpg"].startswith("cannot be read as an image")
    assert reasons["m/pipe.mp4"].startswith("is a pipe, not a file")
    assert reasons["m/socket.jpg"].startswith("is a socket, not a file")
    assert "No such file" in reasons["m/gone.jpg"]


def test_what_opens_and_cannot_be_read_is_named(here):
    """As on a failing disk; Linux lets nobody read the beginning of its own memory."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("this system has no /proc/self/mem")
    Path("m").mkdir()
    Path("m/a.png").write_bytes(picture())
    Path("m/b.png").symlink_to("/proc/self/mem")
    records = run([Path("m")], Path("o.csv"))
    assert statuses(records) == {"m/a.png": "done", "m/b.png": "failed"}
    assert "Input/output error" in records["m/b.png"].reason


def test_every_page_of_a_tiff_file_is_looked_at(here):
    pages = [Image.new("RGB", (64, 48), (level,) * 3) for level in (200, 0, 90)]
    small = Image.new("RGB", (32, 24), (200,) * 3)
    small.encoderinfo = {"tiffinfo": {254: 1}}  # a smaller copy of the page before
    Path("m").mkdir()
    pages[0].save("m/a.tif", save_all=True, append_images=[*pages[1:], small])
    Path("m/b.png").write_bytes(picture())
    many = [Image.new("RGB", (64, 48), (200,) * 3)] * 40
    many[0].save("m/c.tif", save_all=True, append_images=many[1:])
    content = Path("m/c.tif").read_bytes()
    Path("m/d.tif").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile("m/z.zip", "w") as archive:
        archive.write("m/a.tif", "a.tif")
    records = run([Path("m")], Path("o.csv"))
    counts = {name: (record.status, record.frames, record.faces) for name, record in records.items()}
    damaged = counts.pop("m/d.tif")
    assert counts == {
        **{"m/a.tif": ("done", 3, 2), "m/b.png": ("done", 1, 1), "m/c.tif": ("done", 40, 40)},
        "m/z.zip/a.tif": ("done", 3, 2),
    }
    assert damaged[0] == "damaged"
    assert 5 < damaged[1] < 25
    assert records["m/d.tif"].reason.startswith("cannot be read as an image")
    rows = [(row["input"], row["frame"]) for row in read_rows(Path("o.csv")) if row["input"].endswith("a.tif")]
    assert rows == [("m/a.tif", 0), ("m/a.tif", 2), ("m/z.zip/a.tif", 0), ("m/z.zip/a.tif", 2)]
    assert {row["kind"] for row in read_rows(Path("o.csv"))} == {"image"}


def test_no_permission_on_one_file_of_many(here):
    Path("m").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Path("m", name).write_bytes(picture())
    Path("m/b.png").chmod(0)
    with nobody(here):
        records = run([Path("m")], Path("o.csv"))
    assert [record.status for record in records.values()] == ["done", "done", "failed"]
    assert "Permission denied" in records["m/b.png"].reason


@pytest.mark.parametrize(
    "name",
    [
        b"two\nlines.png",
        b"one\rline.png",
        b"50%.png",
        b"a:b.png",
        b"-x.png",
        b"=1+1.png",
        b"caf\xe9.png",
        b"\xed\xa0\x80.png",
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_names_of_any_bytes(here, name, suffix):
    try:
        Path(os.fsdecode(name)).write_bytes(picture())
    except OSError:
        pytest.skip("the file system does not have such names")
    table = Path(f"o{suffix}")
    run([Path(os.fsdecode(name))], table)
    (row,) = read_rows(table)
    (record,) = read_rows(Path(f"o.inputs{suffix}"))
    assert row["input"] == record["input"]
    row["input"].encode()  # what is written is Unicode
    assert row["input"].removeprefix("'").startswith(name[:1].decode("latin-1")) or name[0] > 127


def test_the_summary_counts_by_reason():
    records = [batch.Record(f"{n}", "image", "done") for n in range(3)] + [
        *(batch.Record("a", None, "skipped", "is hidden"), batch.Record("b", None, "skipped", "is hidden")),
        *(batch.Record("c", None, "skipped", "other"), batch.Record("d", "image", "failed", "is empty")),
    ]
    assert list(batch.reasons(records)) == ["3 done", "1 failed: is empty", "2 skipped: is hidden", "1 skipped: other"]


def test_an_archive_is_closed_where_it_cannot_be_opened(here):
    Path("a.zip").write_bytes(b"PK\x05\x06 no archive")
    with pytest.raises(zipfile.BadZipFile):  # a file that stays open is a warning, which is an error here
        Archive(Path("a.zip"), "zip")


def test_a_stream_that_ends_early_is_damaged_and_the_others_are_read(here):
    content = write_clip(here / "v.avi", 200, size=(320, 240)).read_bytes()

    class Ending(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ending) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        address = f"http://me:secret@127.0.0.1:{server.server_port}/v.avi"
        try:
            records = run([address, Path("v.avi")], Path("o.csv"))
        finally:
            server.shutdown()
            thread.join()
    name = address.replace("me:secret", "***")
    assert statuses(records) == {name: "damaged", "v.avi": "done"}
    assert 20 < records[name].frames < 190
    assert "secret" not in Path("o.csv").read_text() + Path("o.inputs.csv").read_text()


def test_a_full_disk_is_named_and_the_same_run_goes_on(here):
    """A file may not grow beyond a limit, which is how a disk that is full looks to the one who writes."""
    resource = pytest.importorskip("resource")
    Path("m").mkdir()
    for index in range(60):
        Path(f"m/{index:02}.png").write_bytes(picture(level=60 + index))
    run([Path("m")], Path("whole.csv"))
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path("whole.csv").stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(
            FaceflaxError, match=r"^csv: cannot write more than \d+ bytes \(File too large\); make room"
        ):
            run([Path("m")], Path("o.csv"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert Path("o.csv").read_text().endswith("\n")
    records = run([Path("m")], Path("o.csv"))
    assert 0 < len(records) < 60
    assert Path("o.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_an_unknown_protocol_is_named():
    with pytest.raises(FaceflaxError, match=r"^paths: 'ftp://x' has an unknown protocol"):
        batch.find_inputs(["ftp://x"])
