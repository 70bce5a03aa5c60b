"""The emotions of a video's faces over time, as a figure and as a page, from the table of what was found."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int32
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from faceflax import html as pages
from faceflax.errors import FaceflaxError, said
from faceflax.faces.crop import crop_face
from faceflax.faces.frame import Frame, Image
from faceflax.files import write
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media.images import encode
from faceflax.media.sources import Source
from faceflax.media.table import Row, harmless, read_rows, readable

if TYPE_CHECKING:
    import pandas
    from markupsafe import Markup

COLORS: dict[str, str] = {
    "angry": "#c8312b",
    "disgust": "#7a8c2e",
    "fear": "#7b4fa3",
    "happy": "#f4c20d",
    "sad": "#2b6cb0",
    "surprise": "#ee8a3c",
    "neutral": "#d0d0d0",
}
"""The colour of each of ``EMOTIONS``."""

MOST_FACES = 12
"""Most faces of a video that are shown: those found in the most frames."""

FEWEST_FRAMES = 10
"""Fewest frames in which a face must have been found to be shown."""

_BODY = """<p>What networks perceived in images of faces. It is no evidence of what a person feels or is; do not use it
to judge people.</p>
<p>Inputs: {% for status, count in counts %}{{ count }} {{ status }}{{ "." if loop.last else ", " }}{% endfor %}</p>
{% if images %}{{ images }}{% endif %}{% for section in sections %}{{ section }}{% endfor %}
{% if left_out %}<h2>Damaged, failed and skipped</h2>
<div class="wide"><table class="words">
<tr><th scope="col">input</th><th scope="col">status</th><th scope="col">why</th></tr>
{%- for cells in left_out %}
<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}</table></div>{% endif %}"""
_IMAGES = """<h2>Images</h2>
<p>{{ text }}</p>
<div class="wide">{{ shares }}</div>
"""
_NO_FACE = """<h2>{{ name }}</h2>
<p>No face was found in {{ fewest }} frames or more.</p>
"""
_SECTION = """<h2>{{ name }}</h2>
<div class="wide timeline">{{ figure }}</div>
{% if left_out %}<p>{{ left_out }} that were seen more briefly are left out.</p>
{% endif %}<div class="wide">{{ shares }}</div>
{% for face in faces %}<h3>Face {{ face.id }}</h3>
<p>{{ face.first }} to {{ face.last }}; perceived as a {{ face.gender }}</p>
{% if face.samples %}<div class="faces">
{%- for sample in face.samples -%}
<figure>{{ sample.image }}<figcaption>{{ sample.time }}<br>{{ sample.emotion }}</figcaption></figure>
{%- endfor -%}
</div>{% endif %}
{% endfor %}"""

_REAL = ("time", *(f"emotion_{name}" for name in EMOTIONS), *(f"gender_{name}" for name in GENDERS))
_MOST_REASONS = 1000  # inputs that are listed with what is wrong with them; the table of the inputs has all
_THUMBNAILS, _THUMBNAIL_SIDE = 6, 160
_MOST_BINS, _BIN_FRAMES = 400, 3  # steps of a timeline; at least so many frames each, for they come irregularly


@dataclass(frozen=True, eq=False)
class FaceHistory:
    """One face of a video, in all the frames in which it was found.

    Attributes:
        id: its track in the table.
        frames: the frames' indices.
        times: the frames' times in seconds.
        boxes: x, y, width, height in pixels.
        emotions: probabilities in the order of ``EMOTIONS``.
        genders: probabilities in the order of ``GENDERS``.
    """

    id: int
    frames: Int32[np.ndarray, " n"]
    times: Float32[np.ndarray, " n"]
    boxes: Int32[np.ndarray, "n 4"]
    emotions: Float32[np.ndarray, "n 7"]
    genders: Float32[np.ndarray, "n 2"]

    @property
    def shares(self) -> Float32[np.ndarray, " 7"]:
        """In what share of its frames each emotion was the most probable."""
        return np.bincount(self.emotions.argmax(1), minlength=len(EMOTIONS)).astype(np.float32) / len(self.frames)


def read_histories(table: Path, name: str) -> list[FaceHistory]:
    """Reads the faces of one video from a table, in the order of their first frame.

    Args:
        table: a file with :data:`faceflax.media.table.COLUMNS`; its suffix gives the format.
        name: of the video in it.
    """
    name = _as_written(table, name)
    return histories_of(row for row in read_rows(table) if row["input"] == name)


def histories_of(rows: Iterable[Row]) -> list[FaceHistory]:
    """Returns the faces in the rows of one video, in the order of their first frame; those without a track are none."""
    whole: dict[int, array[int]] = {}
    real: dict[int, array[float]] = {}
    for row in rows:
        track = row["track"]
        if track is not None:
            whole.setdefault(track, array("i")).extend(row[key] for key in ("frame", "x", "y", "width", "height"))
            real.setdefault(track, array("f")).extend(row[key] for key in _REAL)
    histories = []
    for track in whole:
        integers = np.frombuffer(whole[track], np.int32).reshape(-1, 5)
        numbers = np.frombuffer(real[track], np.float32).reshape(-1, len(_REAL))
        emotions, genders = numbers[:, 1 : 1 + len(EMOTIONS)], numbers[:, 1 + len(EMOTIONS) :]
        histories.append(FaceHistory(track, integers[:, 0], numbers[:, 0], integers[:, 1:], emotions, genders))
    return histories


def _as_written(table: Path, name: str) -> str:
    return harmless(readable(name)) if table.suffix.lower() == ".csv" else readable(name)


def timeline(faces: Sequence[FaceHistory], seconds: float = 0.0) -> Figure:
    """Draws the probabilities of the seven emotions over time, stacked to 100%, a panel for each face.

    Where a face was not found its panel is empty. Save it with ``figure.savefig``.

    Args:
        faces: the faces, at least one.
        seconds: how long the video is, if it goes on after the last face.
    """
    last = max(faces, key=lambda face: face.frames[-1])
    rate = last.frames[-1] / max(float(last.times[-1]), 1e-3)
    seconds = max(seconds, float(last.times[-1]) + 1 / max(rate, 1.0))
    bins = max(1, min(_MOST_BINS, int(seconds * rate / _BIN_FRAMES)))
    edges = np.linspace(0, seconds, bins + 1)
    figure = Figure(figsize=(10, 0.9 + 1.25 * len(faces)), layout="constrained")
    panels = figure.subplots(len(faces), sharex=True, squeeze=False)[:, 0]
    for face, axes in zip(faces, panels, strict=True):
        place = (np.searchsorted(edges, face.times, side="right") - 1).clip(0, bins - 1)
        count = np.bincount(place, minlength=bins)
        sums = [np.bincount(place, weights=each, minlength=bins) for each in face.emotions.T]
        means = np.array(sums) / np.maximum(count, 1)
        tops = np.vstack([np.zeros(bins), means.cumsum(0)]) / np.maximum(means.sum(0), 1e-9)
        tops = np.concatenate([tops, tops[:, -1:]], axis=1)
        for index, emotion in enumerate(EMOTIONS):
            axes.fill_between(
                edges, tops[index], tops[index + 1], step="post", color=COLORS[emotion], linewidth=0, label=emotion
            )
        axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], ylabel=f"face {face.id}", xlim=(0, edges[-1]))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].xaxis.set_major_formatter(lambda x, _: clock(x))
    panels[-1].set_xlabel("time")
    handles = [Patch(color=COLORS[emotion], label=emotion) for emotion in EMOTIONS]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(EMOTIONS), frameon=False)
    return figure


def clock(seconds: float) -> str:
    """Writes seconds as minutes and seconds, and hours where there are some.

    Example:
        >>> clock(2.5), clock(75), clock(3600)
        ('0:02.5', '1:15', '1:00:00')
    """
    whole, tenth = divmod(round(10 * seconds), 10)
    minutes = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{minutes}:{whole % 60:02}" + (f".{tenth}" if tenth else "")


def thumbnails(
    frames: Generator[Frame, None, None], faces: Sequence[FaceHistory]
) -> dict[int, list[tuple[int, Image]]]:
    """Cuts samples of each face out of a video, evenly spread over the frames in which it was found.

    Args:
        frames: of the video; read as far as needed and closed.
        faces: what to cut out.

    Returns:
        For each face's id: rows of its history, and the square around its box there, uint8 ``[160, 160, 3]`` BGR.
    """
    wanted: dict[int, list[tuple[FaceHistory, int]]] = {}
    for face in faces:
        for row in sorted({int(r) for r in np.linspace(0, len(face.frames) - 1, _THUMBNAILS)}):
            wanted.setdefault(int(face.frames[row]), []).append((face, row))
    samples: dict[int, list[tuple[int, Image]]] = {face.id: [] for face in faces}
    with closing(frames):
        for frame in frames:
            for face, row in wanted.pop(frame.index, []):
                samples[face.id].append((row, crop_face(frame.image, face.boxes[row], 0.2, _THUMBNAIL_SIDE)))
            if not wanted:
                break
    return samples


def write_page(
    file: Path,
    table: Path,
    inputs: Sequence[Row],
    sources: Mapping[str, Callable[[], AbstractContextManager[Source]]] | None = None,
) -> None:
    """Writes one page about a table: of each video a timeline and its emotions' shares, of all images their shares.

    It needs no other file, and is made in one pass over the table. It shows faces only where ``sources`` are given.

    Args:
        file: the page (.html).
        table: what was found; its suffix gives the format.
        inputs: the rows of the table of the inputs, in any order.
        sources: by a video's name, what opens it again, for samples of its faces.

    Raises:
        FaceflaxError: the page cannot be written, or a video cannot be read again.
    """
    known = {_as_written(table, row["input"]): row for row in inputs}
    parts: dict[str, Markup] = {}
    images = _Images()
    for name, rows in groupby(read_rows(table), key=lambda row: row["input"]):
        record = known.get(name)
        if record is None:
            continue
        if record["kind"] == "image":
            for row in rows:
                images.add(row)
        else:
            opener = (sources or {}).get(record["input"])
            parts[name] = section(readable(record["input"]), histories_of(rows), record["seconds"] or 0.0, opener)
    counts = Counter(row["status"] for row in inputs)
    videos = [name for name, row in known.items() if row["kind"] == "video" and row["status"] != "failed"]
    page = pages.render(
        _BODY,
        counts=[(status, count) for status, count in counts.items()],
        images=images.section(sum(row["kind"] == "image" and row["status"] != "failed" for row in inputs)),
        sections=[parts.get(name) or section(readable(known[name]["input"]), [], 0.0) for name in videos],
        left_out=[(readable(row["input"]), row["status"], row["reason"] or "") for row in inputs if row["reason"]][
            :_MOST_REASONS
        ],
    )
    try:
        write(file, pages.page("Perceived emotions", page))
    except OSError as error:
        raise FaceflaxError("report", file, f"cannot write {{}} ({said(error)})") from None


class _Images:
    """What is said about all images together."""

    def __init__(self) -> None:
        self._with_face = 0
        self._faces = 0
        self._last: str | None = None
        self._emotions = np.zeros(len(EMOTIONS), np.int64)
        self._genders = np.zeros(len(GENDERS), np.int64)

    def add(self, row: Row) -> None:
        if row["emotion"] is None:
            return
        self._with_face += row["input"] != self._last
        self._last = row["input"]
        self._faces += 1
        self._emotions[EMOTIONS.index(row["emotion"])] += 1
        self._genders[GENDERS.index(row["gender"])] += 1

    def section(self, count: int) -> Markup | None:
        if not count:
            return None
        text = f"Images with a face: {self._with_face:,} of {count:,}. Faces: {self._faces:,}."
        faces = max(self._faces, 1)
        shares = [(e, f"{n:,}", f"{n / faces:.0%}") for e, n in zip(EMOTIONS, self._emotions, strict=True)]
        shares += [
            (f"perceived {g}", f"{n:,}", f"{n / faces:.0%}") for g, n in zip(GENDERS, self._genders, strict=True)
        ]
        return pages.render(_IMAGES, text=text, shares=pages.table(("label", "faces", "share"), shares))


def section(
    name: str,
    faces: Sequence[FaceHistory],
    seconds: float = 0.0,
    opener: Callable[[], AbstractContextManager[Source]] | None = None,
) -> Markup:
    """Returns the part of a page about one video, as HTML.

    Args:
        name: of the video.
        faces: its faces, from :func:`read_histories`.
        seconds: how long it is.
        opener: opens it again, for samples of its faces; none are shown if not given.

    Raises:
        FaceflaxError: of field ``video``: it cannot be read again.
    """
    long = (face for face in faces if len(face.frames) >= FEWEST_FRAMES)
    shown = sorted(long, key=lambda face: -len(face.frames))[:MOST_FACES]
    shown.sort(key=lambda face: face.id)
    if not shown:
        return pages.render(_NO_FACE, name=name, fewest=FEWEST_FRAMES)
    samples: dict[int, list[tuple[int, Image]]] = {face.id: [] for face in shown}
    if opener is not None:
        try:
            with opener() as source:
                samples = thumbnails(source.frames, shown)
        except FaceflaxError as error:
            raise error.renamed("video") from None
    figure = pages.figure(
        timeline(shown, seconds), f"Probabilities of the seven emotions over time, {len(shown)} faces"
    )
    shares = pages.table(("share of frames", *(f"face {face.id}" for face in shown)), _shares(shown))
    return pages.render(
        _SECTION,
        name=name,
        figure=figure,
        left_out=len(faces) - len(shown),
        shares=shares,
        faces=[_face(face, samples[face.id]) for face in shown],
    )


def plot_emotions(rows: Iterable[Row] | pandas.DataFrame, name: str | None = None) -> Figure:
    """Draws the emotions of a video's faces over time, from what :func:`faceflax.analyze` returns or a table's rows.

    Args:
        rows: a DataFrame, or rows.
        name: the video's name in them, if they are of several inputs.

    Raises:
        FaceflaxError: no face of a video is in them, or several videos are and none is named.

    Example:
        >>> import faceflax
        >>> from faceflax.media.demo import video
        >>> rows = faceflax.iter_rows(list(video())[:10], video=True, preset="fast")
        >>> figure = plot_emotions(rows)
        >>> figure.axes[0].get_ylabel()
        'face 0'
    """
    if hasattr(rows, "to_dict"):
        frame: Any = rows
        kept = frame[frame["track"].notna()]
        rows = kept.astype(object).where(kept.notna(), None).to_dict("records")
    tracked = [row for row in rows if row["track"] is not None and (name is None or row["input"] == name)]
    names = sorted({row["input"] for row in tracked})
    if not names:
        raise FaceflaxError("rows", None, "there is no face of a video in them", "give the rows of a video")
    if len(names) > 1:
        raise FaceflaxError("name", None, "the rows are of several videos", f"choose one of: {', '.join(names)}")
    return timeline(histories_of(tracked))


def _shares(faces: Sequence[FaceHistory]) -> Iterable[tuple[str, ...]]:
    """A column for each face, so that those of a few fit into a phone's width."""
    yield "frames", *(f"{len(face.frames):,}" for face in faces)
    for emotion, shares in zip(EMOTIONS, zip(*(face.shares for face in faces), strict=True), strict=True):
        yield emotion, *(f"{share:.0%}" for share in shares)


def _face(face: FaceHistory, samples: Iterable[tuple[int, np.ndarray]]) -> dict[str, Any]:
    """What the page says about a face."""
    mean = face.genders.mean(0)
    shown = []
    for row, sample in samples:
        time = clock(float(face.times[row]))
        emotion = EMOTIONS[int(face.emotions[row].argmax())]
        encoded = encode(sample, ".jpg")
        image = pages.image(encoded, "jpeg", f"face {face.id} at {time}")
        shown.append({"image": image, "time": time, "emotion": f"{emotion} {face.emotions[row].max():.0%}"})
    return {
        "id": face.id,
        "first": clock(float(face.times[0])),
        "last": clock(float(face.times[-1])),
        "gender": f"{GENDERS[int(mean.argmax())]} ({mean.max():.0%})",
        "samples": shown,
    }
