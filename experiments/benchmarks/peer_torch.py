"""PyTorch and Captum on the same networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks import shared

Run = Callable[[], np.ndarray]

CELLS = 4
"""Squares down and across that feature ablation hides in turn."""

_norm = partial(nn.BatchNorm2d, eps=shared.BN_EPSILON, momentum=0.01)


class MaxPool(nn.Module):
    """3x3, stride 2, padded as TensorFlow's SAME."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, c, side, side]`` to ``[batch, c, ceil(side / 2), ceil(side / 2)]``."""
        return F.max_pool2d(x, 3, 2, padding=x.shape[-1] % 2, ceil_mode=True)


class Separable(nn.Sequential):
    """Depthwise, then pointwise convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)


class Block(nn.Module):
    """The residual module."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut, self.shortcut_bn = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), _norm(outputs)
        self.conv1, self.bn1, self.relu = Separable(inputs, outputs), _norm(outputs), nn.ReLU()
        self.conv2, self.bn2, self.pool = Separable(outputs, outputs), _norm(outputs), MaxPool()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, inputs, h, w]`` to ``[batch, outputs, ceil(h / 2), ceil(w / 2)]``."""
        main = self.relu(self.bn1(self.conv1(x)))
        return self.pool(self.bn2(self.conv2(main))) + self.shortcut_bn(self.shortcut(x))


class MiniXception(nn.Module):
    """Images to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1, self.stem1_bn, self.relu1 = nn.Conv2d(1, 8, 3, bias=False), _norm(8), nn.ReLU()
        self.stem2, self.stem2_bn, self.relu2 = nn.Conv2d(8, 8, 3, bias=False), _norm(8), nn.ReLU()
        self.block1, self.block2, self.block3, self.block4 = (
            Block(inputs, outputs) for inputs, outputs in ((8, 16), (16, 32), (32, 64), (64, 128))
        )
        self.last_conv = nn.Conv2d(128, shared.CLASSES, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, 1, h, w]`` to ``[batch, 7]``."""
        x = self.relu1(self.stem1_bn(self.stem1(x)))
        x = self.relu2(self.stem2_bn(self.stem2(x)))
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = block(x)
        return self.last_conv(x).mean((2, 3))


class SequentialCNN(nn.Sequential):
    """Images to logits."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 1
        for i, (outputs, size) in enumerate(shared.STAGES, start=1):
            for name in (f"stage{i}a", f"stage{i}b"):
                self.add_module(name, nn.Conv2d(inputs, outputs, size, padding=size // 2))
                self.add_module(f"{name}_bn", _norm(outputs))
                inputs = outputs
            self.add_module(f"stage{i}", nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0.5)))
        self.stage5a, self.stage5a_bn = nn.Conv2d(inputs, 256, 3, padding=1), _norm(256)
        self.last_conv = nn.Conv2d(256, shared.CLASSES, 3, padding=1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _network(arch: str) -> nn.Module:
    network: nn.Module = {"mini_xception": MiniXception, "sequential_cnn": SequentialCNN}[arch]()
    state = {name: torch.from_numpy(value) for name, value in shared.channels_first(arch).items()}
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    network.load_state_dict(state | {name: torch.tensor(0) for name in counters})
    return network.to(memory_format=torch.channels_last).eval()


def _channels_last(images: np.ndarray) -> torch.Tensor:
    """A view of ``[batch, height, width, channels]`` as PyTorch's ``[batch, channels, height, width]``."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def forward(arch: str, batch: int) -> Run:
    """Logits ``[batch, 7]``."""
    network, images = _network(arch), _channels_last(shared.images(batch))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(images).numpy()

    return run


def train(arch: str, batch: int) -> Run:
    """The loss of one more train step."""
    images, labels = shared.training_set(8 * batch)
    return partial(next, _steps(arch, _channels_last(images), torch.from_numpy(labels).long(), batch))


def _steps(arch: str, images: torch.Tensor, labels: torch.Tensor, batch: int) -> Iterator[np.ndarray]:
    network = _network(arch).train()
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": shared.WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=shared.LEARNING_RATE, fused=True)
    for indices in cycle(torch.from_numpy(shared.order(len(images), batch))):
        logits = network(images[indices] / 127.5 - 1)
        loss = F.cross_entropy(logits, labels[indices], label_smoothing=shared.LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach().numpy()


def train_and_evaluate(arch: str) -> None:
    """A few train steps on as many images as FER-2013 has, then an evaluation."""
    arrays, labels = shared.training_set(shared.TRAINING_IMAGES)
    images = _channels_last(arrays)
    steps = _steps(arch, images, torch.from_numpy(labels).long(), 64)
    for _ in range(5):
        next(steps)
    network = _network(arch)
    with torch.inference_mode():
        for start in range(0, shared.VALIDATION_IMAGES, 256):
            network(images[start : start + 256] / 127.5 - 1)


def guided_batch(targets: list[int]) -> Run:
    """Captum's guided backprop of one image for each target, ``[targets, 64, 64, 1]``, all in one batch."""
    from captum.attr import GuidedBackprop

    method = GuidedBackprop(_network("mini_xception"))
    images = _channels_last(np.repeat(shared.images(1), len(targets), 0)).requires_grad_()

    def run() -> np.ndarray:
        return method.attribute(images, target=targets).detach().permute(0, 2, 3, 1).numpy()

    return run


def guided_each(targets: list[int]) -> Run:
    """The same, one target after the other."""
    runs = [guided_batch([target]) for target in targets]
    return lambda: np.concatenate([run() for run in runs])


class ResNetBlock(nn.Module):
    """Two convolutions, and a shortcut that may have one of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, inputs, h, w]`` to ``[batch, outputs, h / stride, w / stride]``."""
        return self.relu2(self.shortcut(x) + self.conv2(self.relu1(self.conv1(x))))


class ResNet18(nn.Module):
    """RGB images to a thousand logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu, self.pool = nn.Conv2d(3, 64, 7, 2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        blocks, inputs = [], 64
        for outputs, stride in shared.RESNET_BLOCKS:
            blocks.append(ResNetBlock(inputs, outputs, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.mean, self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(inputs, 1000)
        for name, value in shared.resnet18().items():
            path, leaf = name.rsplit("/", 1)
            tensor = torch.from_numpy(value.transpose(3, 2, 0, 1) if leaf == "kernel" else value)
            module = self.get_submodule(path.replace("block", "blocks.").replace("/", "."))
            shape = module.get_parameter("weight" if leaf == "kernel" else "bias").shape
            setattr(module, "weight" if leaf == "kernel" else "bias", nn.Parameter(tensor.reshape(shape)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, 3, h, w]`` to ``[batch, 1000]``."""
        return self.head(self.mean(self.blocks(self.pool(self.relu(self.stem(x))))))


def attribution(name: str) -> Run:
    """Captum's map of one image of 224x224, of a ResNet-18."""
    from captum import attr

    network = ResNet18().to(memory_format=torch.channels_last).eval()
    last = network.blocks[-1]
    options = shared.ATTRIBUTION[name]
    integral = {"n_steps": options.get("steps", 1), "method": "riemann_middle"}
    corners = torch.arange(224) * CELLS // 224
    segments = (corners[:, None] * CELLS + corners[None])[None, None]
    side = options.get("patch", 1)
    methods: dict[str, tuple[Any, dict[str, Any]]] = {
        "gradient": (attr.Saliency, {"abs": False}),
        "gradient_x_input": (attr.InputXGradient, {}),
        "guided_backprop": (attr.GuidedBackprop, {}),
        "deconvnet": (attr.Deconvolution, {}),
        "grad_cam": (partial(attr.LayerGradCam, layer=last), {}),
        "deep_lift": (attr.DeepLift, {}),
        "integrated_gradients": (attr.IntegratedGradients, integral),
        "layer_integrated_gradients": (partial(attr.LayerIntegratedGradients, layer=last), integral),
        "occlusion": (attr.Occlusion, {"sliding_window_shapes": (3, side, side), "strides": (3, side, side)}),
        "feature_ablation": (attr.FeatureAblation, {"feature_mask": segments, "perturbations_per_eval": 4}),
    }
    method, given = methods[name]
    if name == "occlusion":
        given["perturbations_per_eval"] = 4
    explain = method(network)
    image = _channels_last(shared.images(1, 224, 3))

    def run() -> np.ndarray:
        maps = explain.attribute(image.clone().requires_grad_(), target=3, **given)
        return maps.detach().permute(0, 2, 3, 1).numpy()

    return run
