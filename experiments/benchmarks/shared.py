"""What all contenders share: weights, images, training settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

import faceflax

Tensors = dict[str, np.ndarray]

CLASSES = 7
BN_EPSILON = 1e-3
STAGES = ((16, 7), (32, 5), (64, 3), (128, 3))
"""Features and kernel size of each pair of convolutions of ``sequential_cnn``."""

RESNET_BLOCKS = tuple((64 * 2**stage, 2 if stage and not i else 1) for stage in range(4) for i in range(2))
"""Features and strides of each block of a ResNet-18."""

ATTRIBUTION: dict[str, dict[str, int]] = {
    "gradient": {},
    "gradient_x_input": {},
    "guided_backprop": {},
    "deconvnet": {},
    "grad_cam": {},
    "deep_lift": {},
    "integrated_gradients": {"steps": 20},
    "layer_integrated_gradients": {"steps": 20},
    "occlusion": {"patch": 56, "stride": 56},
    "feature_ablation": {},
}
"""The methods that are compared with Captum's on a ResNet-18, and their options."""

LAYER = "block7"
"""The layer of those methods that explain one: the ResNet-18's last block."""


def tensors(arch: str) -> Tensors:
    """Returns the shipped weights of ``mini_xception`` and ``vgg``; of ``sequential_cnn`` drawn ones.

    Their names are those of a weights file, such as ``params/block1/conv1/depthwise``.

    It reads no more than the file, so that a peer's process needs no JAX.
    """
    if arch in ("mini_xception", "vgg"):
        file = Path(faceflax.__file__).parent / f"pretrained/weights/{arch}-fer2013.safetensors"
        return {name: value.astype(np.float32) for name, value in safetensors.numpy.load_file(file).items()}
    generator = np.random.default_rng(0)
    result: Tensors = {}
    inputs = 1
    pairs = [(f"stage{i}{half}", *stage) for i, stage in enumerate(STAGES, start=1) for half in "ab"]
    for name, outputs, size in [*pairs, ("stage5a", 256, 3), ("last_conv", CLASSES, 3)]:
        kernel = generator.normal(0, (size * size * inputs) ** -0.5, (size, size, inputs, outputs))
        result[f"params/{name}/kernel"] = kernel
        result[f"params/{name}/bias"] = generator.normal(0, 0.1, outputs)
        if name != "last_conv":
            result[f"params/{name}_bn/scale"] = generator.uniform(0.5, 1.5, outputs)
            result[f"params/{name}_bn/bias"] = generator.normal(0, 0.1, outputs)
            result[f"batch_stats/{name}_bn/mean"] = generator.normal(0, 0.1, outputs)
            result[f"batch_stats/{name}_bn/var"] = generator.uniform(0.5, 1.5, outputs)
        inputs = outputs
    return {name: value.astype(np.float32) for name, value in result.items()}


def resnet18() -> Tensors:
    """Returns drawn weights of a ResNet-18 for RGB and a thousand classes, as He et al. initialise it.

    Kernels are laid out as Flax has them, under names such as ``block3/conv1``; where a block halves the image, its
    shortcut is ``block3/shortcut``. What BatchNorm measured is folded into them, with a bias.
    """
    generator = np.random.default_rng(0)
    result: Tensors = {}

    def draw(name: str, size: int, inputs: int, outputs: int) -> None:
        kernel = generator.normal(0, (2 / (size * size * inputs)) ** 0.5, (size, size, inputs, outputs))
        result[f"{name}/kernel"] = kernel.astype(np.float32)
        result[f"{name}/bias"] = generator.normal(0, 0.05, outputs).astype(np.float32)

    draw("stem", 7, 3, 64)
    inputs = 64
    for i, (outputs, _) in enumerate(RESNET_BLOCKS):
        draw(f"block{i}/conv1", 3, inputs, outputs)
        draw(f"block{i}/conv2", 3, outputs, outputs)
        if inputs != outputs:
            draw(f"block{i}/shortcut", 1, inputs, outputs)
        inputs = outputs
    draw("head", 1, inputs, 1000)
    return result


_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}


def channels_first(arch: str) -> Tensors:
    """Returns :func:`tensors` named and laid out for PyTorch: ``block1.conv1.depthwise.weight``, outputs first."""
    result: Tensors = {}
    for name, value in tensors(arch).items():
        path = name.split("/")[1:]
        if path[-1] in ("depthwise", "pointwise"):
            path.append("kernel")
        if value.ndim == 2:
            value = value[None, None]
        if value.ndim == 4:
            value = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
        result[".".join([*path[:-1], _LEAVES[path[-1]]])] = value
    return result


def images(batch: int, size: int = 64, channels: int = 1) -> np.ndarray:
    """Returns the images that all contenders see: float32 ``[batch, size, size, channels]`` in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, size, size, channels)).astype(np.float32)


def order(count: int, batch: int) -> np.ndarray:
    """Returns the batches of the train steps, ``[100, batch]`` indices under ``count``; they come round again."""
    return np.random.default_rng(1).integers(0, count, (100, batch), dtype=np.int32)


def training_set(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 images ``[count, 48, 48, 1]`` and labels for the train steps."""
    generator = np.random.default_rng(0)
    return (
        generator.integers(0, 256, (count, 48, 48, 1), dtype=np.uint8),
        generator.integers(0, CLASSES, count, dtype=np.int32),
    )


def video_frames(video: str | None) -> list[np.ndarray]:
    """Returns the frames of a video, or of the demo's, uint8 ``[height, width, 3]`` BGR."""
    from faceflax.media.sources import open_source

    return [frame.image for frame in open_source(video or "demo").frames]


LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.1
TRAINING_IMAGES, VALIDATION_IMAGES = 28_709, 3_589
"""As many as FER-2013 has."""
