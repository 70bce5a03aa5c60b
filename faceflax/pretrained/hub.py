"""Weights on the Hugging Face Hub: their cards, publishing them, and ``hf://OWNER/NAME`` as a name of weights."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from faceflax.errors import FaceflaxError, needing_extras, said
from faceflax.pretrained.reading import SUFFIX, find, read
from faceflax.pretrained.record import WeightsInfo, record_file

SCHEME = "hf://"

# What the data allow: the name that the Hub knows, or its word for another one and what that is called.
_LICENSES: dict[str, tuple[str, str | None]] = {
    "fairface": ("cc-by-4.0", None),
    "faces": ("other", "research only"),
    "fer2013": ("other", "research only"),
    "ferplus": ("other", "research only"),
    "synthetic": ("apache-2.0", None),
}
_TASKS = {"face_detector": "object-detection"}
_USE = """
## Licence

The code is under Apache-2.0. What the weights may be used for depends on the data that they were fitted to as well:
{data}.
"""
_DATA = {
    "fairface": "FairFace is under CC BY 4.0",
    "faces": "its pictures, among them WIDER FACE's, are for research",
    "fer2013": "FER-2013's pictures are for research, see its publisher's terms",
    "ferplus": "FER+'s labels are under MIT, but FER-2013's pictures are for research, see its publisher's terms",
    "synthetic": "the faces are drawn by this library",
}


def card_header(info: WeightsInfo, license: str | None = None) -> str:
    """Returns the YAML header of a model card, as the Hub reads it.

    Args:
        info: the weights' record, of which all is taken.
        license: one of the Hub's names; of the shipped datasets it is known.

    Example:
        >>> import faceflax
        >>> print(card_header(faceflax.weights_info("mini_xception-fairface")))  # doctest: +ELLIPSIS
        ---
        license: cc-by-4.0
        library_name: faceflax
        pipeline_tag: image-classification
        tags:
        - faceflax
        - flax
        - jax
        - mini_xception
        datasets:
        - fairface
        metrics:
        - accuracy
        ...
        ---
    """
    known, name = (license, None) if license else _LICENSES.get(info.dataset, (None, None))
    task = _TASKS.get(info.arch, "image-classification")
    metric = "recall" if info.arch in _TASKS else "accuracy"
    lines = ["---"]
    if known is not None:
        lines.append(f"license: {known}")
    if name is not None:
        lines += [f"license_name: {name.replace(' ', '-')}", "license_link: README.md#licence"]
    lines += ["library_name: faceflax", f"pipeline_tag: {task}", "tags:"]
    lines += [f"- {_scalar(tag)}" for tag in ("faceflax", "flax", "jax", info.arch)]
    lines += ["datasets:", f"- {_scalar(info.dataset)}", "metrics:", f"- {metric}"]
    if info.accuracy:
        lines += ["model-index:", f"- name: {_scalar(info.name)}", "  results:"]
    for split, share in info.accuracy.items():
        lines += [
            *("  - task:", f"      type: {task}", "    dataset:"),
            *(f"      name: {_scalar(info.dataset)}", f"      type: {_scalar(info.dataset)}"),
            *(f"      split: {_scalar(split)}", "    metrics:", f"    - type: {metric}", f"      value: {share:.6f}"),
        ]
    return "\n".join([*lines, "---"])


def push_to_hub(
    weights: str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Publishes weights with their record and card in a repository of the Hugging Face Hub, which is made if needed.

    ``faceflax.load("hf://OWNER/NAME")`` loads them again. The server is ``$HF_ENDPOINT`` if that is set.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record. A card
            (``.md``) beside it becomes the page; without one the page states the record.
        repo: ``OWNER/NAME``.
        private: whether only the owner sees a repository that is made.
        license: one of the Hub's names; of the shipped datasets it is known.
        token: of the account; the one of ``hf auth login`` if not given.

    Returns:
        The address of what was written.

    Raises:
        FaceflaxError: weights that cannot be loaded, a repository that cannot be written, or the extra ``hub`` is not
            installed.
    """
    with needing_extras():
        from huggingface_hub import HfApi
    _check(repo)
    info, _ = read(weights)  # verified
    source = find(weights)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with tempfile.TemporaryDirectory() as folder:
        for file in (source, record_file(source)):
            shutil.copy(file, folder)
        (Path(folder) / "README.md").write_text(card(info, source.with_suffix(".md"), license), encoding="utf-8")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{info.name} by faceflax")
        except Exception as error:  # the client raises many kinds
            raise FaceflaxError("repo", repo, f"cannot be written ({said(error)})", "check name and token") from None
    return str(getattr(done, "commit_url", repo))


def card(info: WeightsInfo, file: Path, license: str | None = None) -> str:
    """Returns a whole card: the header, what ``file`` says (or else the record), and the licence."""
    if file.is_file():
        body = file.read_text(encoding="utf-8")
    else:
        facts: dict[str, object] = {"arch": info.arch, "dataset": info.dataset, "labels": ", ".join(info.labels)}
        facts |= {"image size": info.image_size, "temperature": info.temperature, "sha256": info.sha256}
        body = "\n".join([f"# {info.name}", "", *(f"* {name}: {value}" for name, value in facts.items()), ""])
    data = _DATA.get(info.dataset, f"ask who published {info.dataset}")
    return f"{card_header(info, license)}\n\n{body}{_USE.format(data=data)}"


@functools.lru_cache(maxsize=64)
def fetch(weights: str) -> Path:
    """Downloads weights from the Hub, or finds them where they were downloaded before.

    Args:
        weights: ``hf://OWNER/NAME``, with ``@REVISION`` behind it for another than the newest.

    Returns:
        The weights file, its record beside it. Within a process the same name gives the same files.

    Raises:
        FaceflaxError: there is no such repository, it holds no weights of faceflax, the Hub cannot be reached, or the
            extra ``hub`` is not installed.
    """
    with needing_extras():
        from huggingface_hub import snapshot_download
    repo, _, revision = weights.removeprefix(SCHEME).partition("@")
    _check(repo, "weights")
    try:
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=[f"*{SUFFIX}", "*.json"],
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # the client raises many kinds
        problem = f"{{}} cannot be fetched ({said(error)})"
        raise FaceflaxError("weights", weights, problem, "check name and connection") from None
    files = [file for file in sorted(Path(folder).glob(f"*{SUFFIX}")) if record_file(file).is_file()]
    if len(files) != 1:
        problem = f"{{}} holds {len(files)} weights files with a record, not one"
        raise FaceflaxError("weights", weights, problem, "name a repository that faceflax.push_to_hub wrote")
    return files[0]


def _check(repo: str, field: str = "repo") -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise FaceflaxError(field, repo, "is not OWNER/NAME", "name it so")


def _scalar(text: str) -> str:
    """Text as YAML: plain where it cannot be taken for anything else, else quoted as JSON, which is YAML too."""
    return text if re.fullmatch(r"[A-Za-z][\w./-]*", text) and text not in _WORDS else json.dumps(text)


_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "True", "False", "Yes", "No", "On", "Off", "Null"}
