"""The page: tabs for pictures, the camera, videos and explanations, in Gradio."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
import numpy as np
from fastapi import FastAPI

from faceflax import html
from faceflax.app.answers import analyze_picture
from faceflax.app.limits import Limits
from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media import demo
from faceflax.media.drawing import draw_faces
from faceflax.media.images import encode
from faceflax.media.timeline import COLORS
from faceflax.opencv import cv2

if TYPE_CHECKING:  # only annotations need it
    from faceflax.app.answers import Analyzer
    from faceflax.app.explaining import Explained, Workbench

KEPT = 600
"""Seconds for which the server keeps what a browser may still ask for, such as an annotated video."""

_USUAL_TARGET = "predicted"
_METHODS = ("guided_backprop", "integrated_gradients", "grad_cam")
_NOTICE = """Networks say what annotators would have **perceived** in a picture. That is no evidence of what a person
feels or is; do not use it to judge people. Everything is computed on this machine, and nothing is kept."""

_BARS = """<div class="faces-said">{% for face in faces %}
<section><h3>Face {{ loop.index }}: {{ face.title }}</h3>
<table aria-label="probabilities of face {{ loop.index }}">{% for bar in face.bars %}
<tr><th scope="row">{{ bar.name }}</th><td class="track">
<span style="width:{{ bar.percent }}%;background:{{ bar.color }}"></span></td>
<td>{{ bar.percent }}%</td></tr>{% endfor %}</table></section>{% else %}<p>{{ nothing }}</p>{% endfor %}</div>"""

_TABLE = """{% if rows %}<div class="wide"><table class="measures"><tr>{% for cell in columns %}
<th scope="col">{{ cell }}</th>{% endfor %}</tr>{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}<h3>How each misleads</h3>
<dl>{% for name, text in notes %}<dt>{{ name }}</dt><dd>{{ text }}</dd>{% endfor %}</dl>"""

_MAPS = """<div class="maps">{% for picture, name in pictures %}
<figure>{{ picture }}<figcaption>{{ name | replace("_", "_\u200b") }}</figcaption></figure>{% endfor %}</div>"""

_TIMELINE = """{% if plot %}<h3>Perceived emotions over time</h3><div class="wide timeline">{{ plot }}</div>
{% else %}<p>No face was found.</p>{% endif %}"""

_WRONG = """<p class="wrong" role="alert">{{ said }}</p>"""

# Gradio is silent when a browser gives no camera, and when there is none.
_CAMERA = """() => {
  const say = (text) => document.querySelectorAll("#camera-said").forEach((each) => (each.textContent = text));
  const devices = navigator.mediaDevices;
  if (!devices) {
    const said = "This browser gives no camera to this page: open it at localhost, or over HTTPS.";
    document.addEventListener("click", ({ target }) => target.closest("#camera") && say(said));
    return;
  }
  const ask = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    say("");
    try {
      return await ask(wanted);
    } catch (error) {
      say(
        error.name === "NotAllowedError"
          ? "The browser refused the camera: allow it beside the address, then click again."
          : `There is no camera that can be used (${error.name}): connect one, or close what uses it.`
      );
      throw error;
    }
  };
}"""

_CSS = """
.faces-said { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.faces-said h3 { margin: 0 0 .3rem; font-size: 1rem; }
.faces-said table, .measures { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.faces-said th, .faces-said td { padding: .1rem .4rem; text-align: left; font-weight: normal; border: 0 !important; }
.faces-said tr, .faces-said tbody, .faces-said table { border: 0 !important; }
.faces-said .track { width: 60%; background: var(--background-fill-secondary); border-radius: 3px; }
.faces-said .track span { display: block; height: .8rem; border-radius: 3px; min-width: 1px; }
.faces-said td:last-child { text-align: right; }
.measures th, .measures td { padding: .2rem .6rem; text-align: right; border: 0 !important; }
.measures, .measures tbody { border: 0 !important; }
.measures tr { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.measures th:first-child, .measures td:first-child { text-align: left; }
.wide { overflow-x: auto; contain: inline-size; }
body:not(.dark) [role="tab"][aria-selected="true"] { color: var(--primary-600) !important; }
.faces-said .track span { box-shadow: inset 0 0 0 1px color-mix(in srgb, currentColor 45%, transparent); }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .8rem; }
.maps figure { margin: 0; }
.maps img { width: 100%; image-rendering: pixelated; border-radius: 3px; }
.maps figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.timeline img { min-width: 40rem; max-width: 100%; background: white; }
.or { color: inherit !important; }
.wrong { border-left: 4px solid #c8312b; padding: .4rem .8rem; }
.wrong:empty { display: none; }
@media (max-width: 30rem) { .tab-container button { padding-inline: .55rem !important; } }
dt { font-weight: 600; margin-top: .4rem; } dd { margin-left: 0; }
.gradio-container { max-width: 72rem !important; margin: 0 auto; }
"""


def mount(
    api: FastAPI,
    analyzer: Analyzer,
    camera: Analyzer,
    limits: Limits,
    workbench: Workbench | None = None,
    task_labels: Sequence[str] = (),
) -> None:
    """Puts the page at the root of an application whose own routes come first.

    Args:
        api: from :func:`faceflax.app.make_api`.
        analyzer: of pictures.
        camera: of the camera's pictures and of videos.
        limits: what is too much.
        workbench: what explains; without it there is no tab for it.
        task_labels: of the analyzers' third task, if they have one.
    """
    gr.mount_gradio_app(
        api,
        build(analyzer, camera, limits, workbench, task_labels),
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=limits.bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        show_error=True,
        theme=_theme(),
        css=_CSS,
        js=_CAMERA,
    )


def _theme() -> gr.themes.Base:
    """Gradio's own look, in the fonts that the machine has (others would be fetched) and with text dark enough."""
    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])
    return theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )


def build(
    analyzer: Analyzer,
    camera: Analyzer,
    limits: Limits,
    workbench: Workbench | None = None,
    task_labels: Sequence[str] = (),
) -> gr.Blocks:
    """Makes the page; see :func:`mount`."""
    with gr.Blocks(title="faceflax", analytics_enabled=False, delete_cache=(60, KEPT)) as page:
        gr.Markdown(f"# faceflax\n{_NOTICE}")
        with gr.Tabs() as tabs:
            with gr.Tab("Picture", id="picture"):
                _picture(analyzer, limits, workbench, task_labels)
            with gr.Tab("Camera", id="camera"):
                _camera(camera, workbench, task_labels)
            with gr.Tab("Video", id="video"):
                _video(camera, limits)
            if workbench is not None:
                with gr.Tab("Explain", id="explain"):
                    _explain(page, tabs, analyzer, limits, workbench)
        gr.Markdown("[The same over HTTP](docs) · faces are found by faceflax's own network")
    return page


def _picture(analyzer: Analyzer, limits: Limits, workbench: Workbench | None, task_labels: Sequence[str]) -> None:
    with gr.Row():
        given = _upload(420)
        drawn = gr.Image(
            label="Faces", interactive=False, height=420, format="jpeg", buttons=["download", "fullscreen"]
        )
    with gr.Row():
        sample = gr.Button("Try a portrait")
        clear = gr.Button("Clear")
    bars = gr.HTML(label="Probabilities")
    known = gr.State([])
    hint = "or click it in the picture; the tab Explain has every method"
    chosen = gr.Radio([], label="Face to explain", info=hint, type="index", visible=False, elem_id="chosen")
    maps = gr.HTML(elem_id="clicked")

    def show(file: str | None) -> tuple[Any, ...]:
        nothing: tuple[Any, ...] = [], gr.Radio([], visible=False), ""
        if file is None:
            return None, "", *nothing
        try:
            found = analyze_picture(Path(file), Path(file).name, analyzer, limits)
        except FaceflaxError as error:
            return None, wrong(error), *nothing
        kept = _kept(found.image, found.faces, workbench)
        return (
            _rgb(draw_faces(found.image, found.faces)),
            bars_of(found.faces, task_labels),
            kept,
            gr.Radio([face["name"] for face in kept], value=None, visible=bool(kept)),
            "",
        )

    outputs: list[Any] = [drawn, bars, known, chosen, maps]
    private: dict[str, Any] = {"api_visibility": "private"}
    work: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "analyze"} | private
    # Not its event "change", which comes twice for an upload.
    gr.on([given.input, given.clear], show, given, outputs, **work)
    # But that one alone comes when a file was too large: Gradio says so, and the picture before is gone.
    given.change(lambda file: show(None) if file is None else [gr.skip()] * len(outputs), given, outputs, **work)
    sample.click(_sample, None, given, **private).then(show, given, outputs, **work)
    clear.click(lambda: None, None, given, **private).then(show, given, outputs, **work)
    if workbench is None:
        return
    bench = workbench

    def explain(faces: list[dict[str, Any]], number: int | None) -> Any:
        return gr.skip() if number is None or number >= len(faces) else _explain_face(bench, faces[number])

    def explain_clicked(faces: list[dict[str, Any]], event: gr.SelectData) -> Any:
        if not faces:
            return gr.skip(), gr.skip()
        face = min(faces, key=lambda face: _distance(face["box"], event.index))
        return face["name"], _explain_face(bench, face)

    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "explain"} | private
    chosen.input(explain, [known, chosen], maps, **one)
    drawn.select(explain_clicked, known, [chosen, maps], **one)


def _camera(camera: Analyzer, workbench: Workbench | None, task_labels: Sequence[str]) -> None:
    gr.Markdown("The browser asks before it gives the camera.")
    gr.HTML('<p id="camera-said" class="wrong" role="alert"></p>')
    with gr.Row():
        seen = gr.Image(label="Camera", sources=["webcam"], streaming=True, type="numpy", height=360, elem_id="camera")
        drawn = gr.Image(label="Faces", interactive=False, height=360, format="jpeg", buttons=["fullscreen"])
    explain = gr.Checkbox(label="Guided backprop beside each face", visible=workbench is not None)
    bars = gr.HTML()

    def show(image: np.ndarray | None, explained: bool) -> tuple[Any, str]:
        if image is None:
            return None, ""
        frame = np.ascontiguousarray(image[..., ::-1])
        try:
            faces = list(camera(frame))
            shown = draw_faces(frame, faces)
            if explained and workbench is not None and faces:
                shown = beside_faces(shown, faces, frame, workbench)
        except FaceflaxError as error:
            return None, wrong(error)
        return _rgb(shown), bars_of(faces, task_labels)

    seen.stream(
        show,
        [seen, explain],
        [drawn, bars],
        stream_every=0.25,
        concurrency_limit=1,
        show_progress="hidden",
        api_visibility="private",
    )


def _video(camera: Analyzer, limits: Limits) -> None:
    seconds = "second is" if limits.video_seconds == 1 else f"{limits.video_seconds:g} seconds are"
    gr.Markdown(f"The first {seconds} analysed; a file may have {limits.megabytes:g} MB.")
    given = gr.File(label="Video", file_types=["video"], type="filepath", height=120, elem_id="video")
    start = gr.Button("Analyze", variant="primary")
    said = gr.HTML()
    drawn = gr.Video(label="Annotated", interactive=False, height=420)
    timeline = gr.HTML()
    table = gr.File(label="Table (CSV)", interactive=False, elem_id="table")

    def show(file: str | None, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        try:
            if file is None:
                raise FaceflaxError("video", None, "there is none", "choose a file first")
            return "", *analyze_video(Path(file), camera, limits, progress)
        except FaceflaxError as error:
            return wrong(error), None, "", None

    outputs = [said, drawn, timeline, table]
    start.click(show, given, outputs, show_progress_on=drawn, concurrency_limit=1, api_visibility="private")


def _explain(page: gr.Blocks, tabs: gr.Tabs, analyzer: Analyzer, limits: Limits, workbench: Workbench) -> None:
    first = workbench.weights[0]
    layers = list(workbench.layers(first))
    with gr.Row():
        with gr.Column(scale=1):
            given = _upload(260)
            sample = gr.Button("Try a portrait")
        with gr.Column(scale=2):
            weights = gr.Dropdown(list(workbench.weights), value=first, label="Network")
            once = "each is compiled when it is first used, which takes seconds"
            methods = gr.Dropdown(
                list(workbench.methods), value=list(_METHODS), multiselect=True, label="Methods", info=once
            )
            with gr.Row():
                layer = gr.Dropdown(layers, value=_usual(layers), label="Layer")
                target = gr.Dropdown(list(workbench.targets(first)), value=_USUAL_TARGET, label="Target")
            metrics = gr.Checkbox(label="Also measure the maps (takes longer)")
            start = gr.Button("Explain", variant="primary")
            link = gr.Textbox(label="Link to these settings", interactive=False, buttons=["copy"], elem_id="link")
    shown = gr.HTML(min_height=120)  # room for the progress
    settings = [weights, methods, layer, target, metrics]

    def show(file: str | None, *chosen: Any) -> str:
        try:
            if file is None:
                raise FaceflaxError("picture", None, "there is none", "give one, or try the portrait")
            found = analyze_picture(Path(file), Path(file).name, analyzer, limits)
            if not found.faces:
                raise FaceflaxError("picture", Path(file).name, "shows no face that was found", "try another")
            face = max(found.faces, key=lambda face: face.box[2] * face.box[3])
            crop = face.crop(found.image, *workbench.cut(chosen[0]))
            explained = workbench.explain(crop, **dict(zip(_SETTINGS, chosen, strict=True)))
        except FaceflaxError as error:
            return wrong(error)
        return maps_of(explained) + said_of(explained)

    def of_network(name: str) -> tuple[Any, Any]:
        names = list(workbench.layers(name))
        return gr.update(choices=names, value=_usual(names)), gr.update(
            choices=list(workbench.targets(name)), value=_USUAL_TARGET
        )

    def address(request: gr.Request, *chosen: Any) -> str:
        assert request.request is not None  # Gradio gives one for each event
        return f"{request.request.base_url}?{query_of(dict(zip(_SETTINGS, chosen, strict=True)))}"

    def restore(request: gr.Request) -> list[Any]:
        asked = settings_of(dict(request.query_params), workbench)
        if asked is None:
            return [gr.skip()] * (len(settings) + 1)
        names, targets = list(workbench.layers(asked["weights"])), list(workbench.targets(asked["weights"]))
        return [
            gr.Tabs(selected="explain"),
            asked["weights"],
            asked["methods"],
            gr.update(choices=names, value=asked["layer"]),
            gr.update(choices=targets, value=asked["target"]),
            asked["metrics"],
        ]

    private: dict[str, Any] = {"api_visibility": "private"}
    sample.click(_sample, None, given, **private)
    weights.input(of_network, weights, [layer, target], **private)
    start.click(show, [given, *settings], shown, concurrency_limit=1, concurrency_id="explain", **private).then(
        address, settings, link, **private
    )
    page.load(restore, None, [tabs, *settings], **private)


_SETTINGS = ("weights", "methods", "layer", "target", "metrics")


def query_of(settings: dict[str, Any]) -> str:
    """Returns the settings of the tab Explain as the query of an address.

    Example:
        >>> query_of({"weights": "w", "methods": ["a", "b"], "layer": "stem1", "target": "happy", "metrics": False})
        'weights=w&methods=a%2Cb&layer=stem1&target=happy'
    """
    values = {name: ",".join(value) if isinstance(value, list) else value for name, value in settings.items()}
    return urlencode({name: 1 if value is True else value for name, value in values.items() if value})


def settings_of(query: dict[str, str], workbench: Workbench) -> dict[str, Any] | None:
    """Returns what :func:`query_of` wrote; None for another query, or where a name is unknown here."""
    weights, target = query.get("weights", ""), query.get("target", "")
    if weights not in workbench.weights:
        return None
    methods = query.get("methods", "").split(",")
    known = set(methods) <= set(workbench.methods) and query.get("layer") in workbench.layers(weights)
    if not known or target not in workbench.targets(weights):
        return None
    return {
        "weights": weights,
        "methods": methods,
        "layer": query["layer"],
        "target": target,
        "metrics": query.get("metrics") == "1",
    }


def _upload(height: int) -> gr.Image:
    """A picture that comes as its file: Gradio would decode it first, from fewer formats and without our sentences."""
    sources: list[Literal["upload", "webcam", "clipboard"]] = ["upload", "clipboard"]
    picture = gr.Image(
        label="Picture", sources=sources, type="filepath", image_mode=None, height=height, elem_classes=["upload"]
    )
    vars(picture)["preprocess"] = lambda payload: None if payload is None else payload.path
    return picture


def _usual(layers: Sequence[str]) -> str:
    return "last_conv" if "last_conv" in layers else layers[-1]


def _sample() -> str:
    file = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "portrait.png"
    cv2.imwrite(str(file), demo.photograph())
    return str(file)


def _kept(image: np.ndarray, faces: Sequence[Face], workbench: Workbench | None) -> list[dict[str, Any]]:
    """What explaining a face needs: its name, where it is, and its crop."""
    if workbench is None:
        return []
    cut = workbench.cut(workbench.weights[0])
    return [
        {
            "name": f"{number}: {_labels(face)}",
            "box": face.box,
            "emotion": face.emotion,
            "crop": face.crop(image, *cut),
        }
        for number, face in enumerate(faces, 1)
    ]


def _distance(box: tuple[int, int, int, int], place: tuple[int, int]) -> float:
    """From the middle of a box to a place, in pixels."""
    left, top, width, height = box
    return float(np.hypot(left + width / 2 - place[0], top + height / 2 - place[1]))


def _explain_face(workbench: Workbench, face: dict[str, Any]) -> str:
    weights = workbench.weights[0]
    try:
        explained = workbench.explain(
            face["crop"],
            weights=weights,
            methods=list(_METHODS),
            layer=_usual(workbench.layers(weights)),
            target=face["emotion"],
        )
    except FaceflaxError as error:
        return wrong(error)
    return maps_of(explained)


def wrong(error: FaceflaxError) -> str:
    """Returns the sentence of an error, in the place of the results: what was there before is of something else."""
    return str(html.render(_WRONG, said=str(error)))


def maps_of(explained: Explained) -> str:
    """Returns the face and its maps, each with its name."""
    pictures = [(html.image(encode(_rgb(picture), ".png"), "png", name), name) for picture, name in explained.pictures]
    return str(html.render("<h3>{{ title }}</h3>", title=explained.title) + html.render(_MAPS, pictures=pictures))


def bars_of(faces: Sequence[Face], task_labels: Sequence[str] = ()) -> str:
    """Returns all probabilities of each face as tables with bars; those of the third task last, where there is one."""
    said = []
    for face in faces:
        named = [
            *zip(EMOTIONS, face.emotion_probabilities, strict=True),
            *zip(GENDERS, face.gender_probabilities, strict=True),
        ]
        if face.task_probabilities is not None:
            named += zip(task_labels, face.task_probabilities, strict=True)
        bars = [
            {"name": name, "percent": round(100 * float(value)), "color": COLORS.get(name, "#6b7280")}
            for name, value in named
        ]
        said.append({"title": f"perceived as {_labels(face)}", "bars": bars})
    return str(html.render(_BARS, faces=said, nothing="No face was found."))


def _labels(face: Face) -> str:
    return ", ".join(label for label in (face.emotion, face.gender, face.task) if label is not None)


def said_of(explained: Explained) -> str:
    """Returns the table of metrics, if there is one, and how each method misleads."""
    return str(html.render(_TABLE, columns=explained.columns, rows=explained.rows, notes=explained.notes))


def beside_faces(drawn: np.ndarray, faces: Sequence[Face], frame: np.ndarray, workbench: Workbench) -> np.ndarray:
    """Puts the guided backpropagation of each face's emotion beside it, into ``drawn`` itself, BGR."""
    from faceflax.live.overlay import beside

    weights = workbench.weights[0]
    crops = np.stack([face.crop(frame, *workbench.cut(weights)) for face in faces])
    for face, picture in zip(faces, workbench.quick(crops, weights=weights), strict=True):
        x, y, side = beside((face.box[0], face.box[1], max(face.box[2:])), drawn.shape[1])
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, drawn.shape[1]), min(y + side, drawn.shape[0])
        if left < right and top < bottom:
            scaled = cv2.resize(_rgb(picture), (side, side), interpolation=cv2.INTER_NEAREST)
            drawn[top:bottom, left:right] = scaled[top - y : bottom - y, left - x : right - x]
    return drawn


def analyze_video(file: Path, camera: Analyzer, limits: Limits, progress: Callable[..., Any]) -> tuple[str, str, str]:
    """Analyses a video.

    Returns:
        The annotated video's file, the timeline as HTML, and the table's file.

    Raises:
        FaceflaxError: of field ``video``: it is too large, or not a video.
    """
    from faceflax.faces import VideoAnalyzer
    from faceflax.faces.analyzer import FaceAnalyzer
    from faceflax.media import outputs, timeline
    from faceflax.media.sources import open_source
    from faceflax.media.table import read_rows

    if file.stat().st_size > limits.bytes:
        raise FaceflaxError("video", file.name, f"has more than {limits.megabytes:g} MB", "cut it or reduce it")
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
    video, table = folder / "annotated.mp4", folder / "faces.csv"
    try:
        source = open_source(str(file))
        if source.kind != "video":
            raise FaceflaxError("video", file.name, "is not a video", "give pictures to the tab Picture")
        analyze = VideoAnalyzer(camera) if isinstance(camera, FaceAnalyzer) else camera
        with outputs.rows(table, source.kind) as write_rows, outputs.annotated(source, video) as write_image:
            for frame in source.frames:
                if frame.time > limits.video_seconds:
                    break
                faces = list(analyze(frame))
                write_image(frame, draw_faces(frame, faces))
                write_rows(frame, faces)
                progress((frame.index, source.count))
    except FaceflaxError as error:
        shown = file.name if str(error.value) == str(file) else error.value  # not where the upload is kept
        raise FaceflaxError("video", shown, error.problem, error.remedy) from None
    rows = list(read_rows(table))
    plot = html.figure(timeline.plot_emotions(rows), "bands of the perceived emotions over time") if rows else None
    return str(video), str(html.render(_TIMELINE, plot=plot)), str(table)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
