"""face_detector on five sources of photographs with boxes: the shipped weights ``face_detector-faces``.

AdamW, a cosine, averaged weights, 16 crops of 256x256 pixels a step, float32. A crop is taken around a face that
becomes 9 to 150 pixels large, is rotated by up to 45 degrees, mirrored, and at random covered in part, blurred,
darkened, given noise and compressed (:class:`faceflax.data.SceneAugmentation`); one in eight is a sheet of shrunk
portraits. Fitted on the train split; the epoch is chosen on the validation split, by the mean over the kinds of
pictures of the recall at one false box in ten images.

Commands::

    faceflax prepare-data faces --source faces.zip
    python -m experiments.recipes.face_detector_faces
    python scripts/export.py runs/face_detector-faces/weights.safetensors face_detector-faces --half
    python -m experiments.detection --yunet yunet_2026may.onnx
"""

from __future__ import annotations

from experiments.recipes import train
from faceflax.cli import run
from faceflax.training.config import TrainConfig

CONFIG = TrainConfig(
    arch="face_detector",
    dataset="faces",
    epochs=40,
    batch_size=16,
    image_size=256,
    learning_rate=3e-3,
    warmup_epochs=0.5,
    average=0.999,
    stop_patience=100,
)


if __name__ == "__main__":
    run(train, TrainConfig, default=CONFIG)
