"""A person's own images: one folder a class."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from faceflax.data import builder
from faceflax.errors import FaceflaxError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm"})
SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}

Files = dict[str, list[tuple[str, Path]]]
"""For each split: ``(class folder's name, image)``."""


def find_images(source: Path) -> Files:
    """Lists the images of ``source/CLASS/*.png`` or ``source/{train,validation,test}/CLASS/*.png``.

    Without split folders the images are split 80/10/10, and without a validation folder a tenth of the training
    images is held out, both by a hash of ``CLASS/file name`` that is the same on every machine.

    Raises:
        FaceflaxError: ``source`` is no folder, or has no class folders with images.
    """
    if not source.is_dir():
        raise FaceflaxError("source", source, "is not a folder", "name a folder that has one folder a class")
    folders = _folders(source)
    split_folders = {folder: split for folder in folders if (split := SPLIT_FOLDERS.get(folder.name.lower()))}
    classes = [folder.name for folder in folders if folder not in split_folders and _images(folder)]
    if split_folders and classes:
        splits = [folder.name for folder in split_folders]
        problem = f"has folders of splits ({', '.join(splits)}) and of images ({', '.join(classes)}) side by side"
        raise FaceflaxError("source", source, problem, "name a folder with only one kind in it")
    files: Files = {}
    for folder, split in (split_folders or {source: ""}).items():
        for class_folder in _folders(folder):
            for file in _images(class_folder):
                key = f"{class_folder.name}/{file.name}"
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
    return files


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


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
        return tfds.core.DatasetInfo(
            builder=self,
            description="A person's own images, one folder a class.",
            features=tfds.features.FeaturesDict(
                {"image": builder.grey_image(), "label": tfds.features.ClassLabel(), "id": tfds.features.Text()}
            ),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        files = find_images(self.source_path)
        self.info.features["label"].names = sorted({name for images in files.values() for name, _ in images})
        return {split: self._generate_examples(split, self._read(files[split])) for split in files}

    def _read(self, images: Iterable[tuple[str, Path]]) -> Iterator[builder.Row]:
        for name, file in images:
            yield str(file.relative_to(self.source_path)), functools.partial(builder.read_example, file, label=name)


def named(name: str) -> type[Folder]:
    """Returns the builder of the set called ``name``.

    TFDS warns of a configuration that a builder class does not declare, so each name gets a class that declares it.
    """
    config = tfds.core.BuilderConfig(name=name, description="A person's own images.")
    declared = {"BUILDER_CONFIGS": [config], "__module__": __name__}
    return types.new_class("Folder", (Folder,), {"skip_registration": True}, lambda body: body.update(declared))
