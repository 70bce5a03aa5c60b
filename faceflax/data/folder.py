"""A person's own images: one folder a class."""

from __future__ import annotations

import functools
import os
import types
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from faceflax.data import builder
from faceflax.data.preparation import Row
from faceflax.errors import FaceflaxError, said

SUFFIXES = frozenset(
    {
        *(".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
        *(".tif", ".tiff", ".webp"),
    }
)
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "validate", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders of splits are called, in any case of letters."""

SHOWN = 10
"""Files that a note names, at most."""

Files = dict[str, list[tuple[str, Path]]]
"""For each split: ``(class folder's name, image)``."""


def find_images(source: Path, notes: list[str] | None = None) -> Files:
    """Lists the images below ``source/CLASS`` or ``source/{train,validation,test}/CLASS``, in deeper folders too.

    Without split folders the images are split 80/10/10, and without a validation folder a tenth of the training
    images is held out, both by a hash of the path from ``CLASS`` on that is the same on every machine.

    Args:
        source: the folder.
        notes: takes what the user should know: the files that are not used, by their reason, and odd classes.

    Raises:
        FaceflaxError: ``source`` is no folder, has no class folders with images, or has classes that differ in the case
            of letters alone.
    """
    if not source.is_dir():
        raise FaceflaxError("source", source, "is not a folder", "name a folder that has one folder a class")
    unused: dict[str, list[str]] = {}
    folders = _folders(source)
    split_folders = {folder: split for folder in folders if (split := SPLIT_FOLDERS.get(folder.name.lower()))}
    others = {folder: _images(folder, {}, source) for folder in folders if folder not in split_folders}
    classes = [folder.name for folder, images in others.items() if images]
    if split_folders and classes:
        splits = [folder.name for folder in split_folders]
        problem = f"has folders of splits ({', '.join(splits)}) and of images ({', '.join(classes)}) side by side"
        raise FaceflaxError("source", source, problem, "name a folder with only one kind in it")
    files: Files = {}
    for folder, split in (split_folders or {source: ""}).items():
        for class_folder in _folders(folder):
            for file in _images(class_folder, unused, source):
                key = file.relative_to(folder).as_posix()
                if not split_folders:
                    chosen = builder.random_split(key)
                elif split == "train" and "validation" not in split_folders.values():
                    chosen = builder.random_split(key, test=0)
                else:
                    chosen = split
                files.setdefault(chosen, []).append((class_folder.name, file))
    if not files:
        remedy = "put CLASS/*.jpg into it, or train/CLASS/*.jpg, validation/CLASS/*.jpg and test/CLASS/*.jpg"
        raise FaceflaxError("source", source, "no images in {}", remedy)
    _check_names(source, {name for images in files.values() for name, _ in images})
    if notes is not None:
        for folder in (source, *split_folders) if split_folders else (source,):
            outside = [entry for entry in sorted(folder.iterdir()) if not entry.is_dir()]
            _leave(unused, "in no folder of a class", outside, source)
        for folder in others if split_folders else ():
            _images(folder, unused, source)
        hidden = [entry for folder in (source, *split_folders) for entry in sorted(folder.iterdir())]
        _leave(unused, "hidden", [e for e in hidden if e.is_dir() and e.name.startswith(".")], source)
        notes += [
            f"not used, {len(names)} {reason}: " + ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            for reason, names in unused.items()
        ]
        notes += _odd_classes(files)
    return files


def _odd_classes(files: Files) -> list[str]:
    """What to say of classes from which nothing can be learnt."""
    present = {split: {name for name, _ in images} for split, images in files.items()}
    everywhere = set[str]().union(*present.values())
    notes = []
    if len(everywhere) == 1:
        notes.append(f"all images are of one class, {min(everywhere)}: there is nothing to tell apart.")
    for split in ("train", "validation", "test"):
        lacking = sorted(everywhere - present.get(split, everywhere))
        if lacking:
            notes.append(f"no image of the {split} split is of {', '.join(lacking)}.")
    return notes


def _check_names(source: Path, names: set[str]) -> None:
    folded: dict[str, str] = {}
    for name in sorted(names):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            raise FaceflaxError(
                "source", source, f"the class folder {shown} in {{}} is not UTF-8", "rename it"
            ) from None
        if "\n" in name or "\r" in name:  # TFDS keeps the names as lines
            raise FaceflaxError("source", source, f"the class folder {name!r} in {{}} holds a line end", "rename it")
        other = folded.setdefault(unicodedata.normalize("NFKC", name).strip().casefold(), name)
        if other != name:
            raise FaceflaxError(
                "source", source, f"the classes {other!r} and {name!r} in {{}} look alike", "merge or rename them"
            )


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, unused: dict[str, list[str]], source: Path) -> list[Path]:
    """All images below a folder, sorted; the other files go to ``unused``, by the reason."""
    images, seen = [], set()

    def unreadable(error: OSError) -> None:
        raise FaceflaxError("source", error.filename, f"cannot read {{}} ({said(error)})", "make it readable")

    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        about = os.stat(root)
        if (about.st_dev, about.st_ino) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        paths = [Path(root, name) for name in sorted(names)]
        hidden = [Path(root, name) for name in folders if name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [path for path in paths if not path.name.startswith(".")]
        images += [path for path in shown if path.suffix.lower() in SUFFIXES]
        for path in shown:
            if path.suffix.lower() not in SUFFIXES:
                _leave(
                    unused,
                    f"whose name does not end as an image's{f' ({path.suffix})' if path.suffix else ''}",
                    [path],
                    source,
                )
        _leave(unused, "hidden", [*(path for path in paths if path.name.startswith(".")), *hidden], source)
    return sorted(images)


def _leave(unused: dict[str, list[str]], reason: str, paths: list[Path], source: Path) -> None:
    if paths:
        unused.setdefault(reason, []).extend(builder.shown(path.relative_to(source)) for path in paths)


class Folder(builder.FaceBuilder):
    """A person's own images under a name of their choice: the TFDS configuration (``folder/NAME``).

    The layouts are those of :func:`find_images`; the class folders' names, sorted, are the labels. Colour becomes
    grey and photos are stored at most 128 pixels a side.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put cropped faces into one folder a class (happy/1.jpg ...) of the source, or into such folders under its "
        "train, validation and test."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="A person's own images, one folder a class.",
            features=tfds.features.FeaturesDict(
                {"image": builder.grey_image(), "label": tfds.features.ClassLabel(), "id": tfds.features.Text()}
            ),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        files = find_images(self.source_path, self.notes)
        self.info.features["label"].names = sorted({name for images in files.values() for name, _ in images})
        return {split: self._generate_examples(split, self._rows(files[split])) for split in files}

    def _rows(self, images: Iterable[tuple[str, Path]]) -> list[Row]:
        return [image_row(self.source_path, file, label=name) for name, file in images]


def image_row(source: Path, file: Path, **labels: str) -> Row:
    """Returns the row of an image, whose id is its path in the source."""
    name = builder.shown(file.relative_to(source))
    return Row(name, functools.partial(builder.read_example, file, **labels), file)


def named(name: str) -> type[Folder]:
    """Returns the builder of the set called ``name``.

    TFDS warns of a configuration that a builder class does not declare, so each name gets a class that declares it.
    """
    config = tfds.core.BuilderConfig(name=name, description="A person's own images.")
    declared = {"BUILDER_CONFIGS": [config], "__module__": __name__}
    return types.new_class("Folder", (Folder,), {"skip_registration": True}, lambda body: body.update(declared))
