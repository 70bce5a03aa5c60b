"""PyTorch twins of the networks, with the same weights; BatchNorm is folded into the convolution in front of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.interpretation import networks

Params = Mapping[str, Any]


class Add(nn.Module):
    """A sum of two branches, as a module that a rule can be hung on."""

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Sums over the last axis."""
        return pair.sum(-1)


class Mean(nn.Sequential):
    """The mean over rows and columns."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Block(nn.Module):
    """Two convolutions and a shortcut, which may have one of its own."""

    def __init__(self, first: nn.Module, second: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.first, self.relu1, self.second, self.shortcut = first, nn.ReLU(), second, shortcut
        self.add, self.relu2 = Add(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, channels, height, width]``."""
        y = self.second(self.relu1(self.first(x)))
        return self.relu2(self.add(torch.stack([y, self.shortcut(x)], -1)))


class Twin(nn.Module):
    """Images ``[batch, channels, height, width]`` to logits.

    Attributes:
        layer: the module whose output is the network's layer of rows and columns; one of tokens has none.
    """

    layer: nn.Module


class ResNet(Twin):
    """Of :class:`~experiments.interpretation.networks.ResNet`."""

    def __init__(self, variables: Params) -> None:
        super().__init__()
        params, statistics = variables["params"], variables["batch_stats"]
        self.stem, self.relu = _conv(params["stem"]), nn.ReLU()
        blocks = []
        for name, strides in (("block1", 1), ("block2", 2)):
            convs = [
                _conv(_folded(params[name], statistics[name], i), stride)
                for i, stride in enumerate((strides, 1, strides))
            ]
            blocks.append(Block(convs[0], convs[1], convs[2]))
        self.block1, self.block2 = blocks
        self.mean, self.head, self.layer = Mean(), _linear(params["Dense_0"]), self.block2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, 3]``."""
        return self.head(self.mean(self.block2(self.block1(self.relu(self.stem(x))))))


class NnxResNet(Twin):
    """Of :class:`~experiments.interpretation.networks.NnxResNet`."""

    def __init__(self, module: networks.NnxResNet) -> None:
        super().__init__()
        branches = [
            nn.Sequential(_conv(_held(conv)), _filled(nn.GroupNorm(2, 4, eps=1e-6), _held(norm)))
            for conv, norm in zip(module.block2.convs, module.block2.norms, strict=True)
        ]
        self.stem, self.block2 = _conv(_held(module.stem)), Block(branches[0], branches[1], nn.Identity())
        self.mean, self.head, self.layer = Mean(), _linear(_held(module.head)), self.block2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, 3]``."""
        return self.head(self.mean(self.block2(self.stem(x))))


class ConvNext(Twin):
    """Of :class:`~experiments.interpretation.networks.ConvNext`."""

    def __init__(self, variables: Params) -> None:
        super().__init__()
        p = variables["params"]
        self.stem = _conv(p["stem"], 2, valid=True)
        self.depthwise, self.norm1 = _conv(p["depthwise"], groups=4), _norm(p["LayerNorm_0"])
        self.inner, self.gelu, self.outer = _linear(p["Dense_1"]), nn.GELU("tanh"), _linear(p["Dense_0"])
        self.scale, self.layer = _tensor(p["scale"])[0, 0, 0], nn.Identity()
        self.mean, self.norm2, self.head = Mean(), _norm(p["LayerNorm_1"]), _linear(p["Dense_2"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, 3]``."""
        x = self.stem(x)
        y = self.norm1(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.outer(self.gelu(self.inner(y)))
        return self.head(self.norm2(self.mean(self.layer(x + y.permute(0, 3, 1, 2)))))


class Encoder(nn.Module):
    """Of :class:`~experiments.interpretation.networks.Encoder`."""

    def __init__(self, p: Params) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(p["norm1"]), _norm(p["norm2"])
        heads = [
            {"kernel": np.asarray(p["attention"][name]["kernel"]).reshape(8, 8), "bias": p["attention"][name]["bias"]}
            for name in ("query", "key", "value")
        ]
        self.query, self.key, self.value = map(_linear, heads)
        out = p["attention"]["out"]
        self.out = _linear({"kernel": np.asarray(out["kernel"]).reshape(8, 8), "bias": out["bias"]})
        self.inner, self.silu, self.outer = _linear(p["Dense_1"]), nn.SiLU(), _linear(p["Dense_0"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keeps the shape ``[batch, tokens, 8]``."""
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(2, (2, 4)).transpose(1, 2) for f in (self.query, self.key, self.value))
        attention = torch.softmax(q @ k.transpose(2, 3) / 2, -1)
        x = x + self.out((attention @ v).transpose(1, 2).flatten(2))
        return x + self.outer(self.silu(self.inner(self.norm2(x))))


class ViT(Twin):
    """Of :class:`~experiments.interpretation.networks.ViT`."""

    def __init__(self, variables: Params) -> None:
        super().__init__()
        p = variables["params"]
        self.patches = _conv(p["patches"], 4, valid=True)
        self.token, self.positions = _tensor(p["token"]), _tensor(p["positions"])
        self.encoders = nn.Sequential(Encoder(p["encoder0"]), Encoder(p["encoder1"]))
        self.norm, self.head = _norm(p["norm"]), _linear(p["head"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, 3]``."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.encoders(x))[:, 0])


class Mixer(Twin):
    """Of :class:`~experiments.interpretation.networks.Mixer`."""

    def __init__(self, variables: Params) -> None:
        super().__init__()
        p = variables["params"]
        self.patches = _conv(p["Conv_0"], 4, valid=True)
        self.norm1, self.norm2 = _norm(p["LayerNorm_0"]), _norm(p["LayerNorm_1"])
        self.tokens = nn.Sequential(_linear(p["Dense_1"]), nn.GELU("tanh"), _linear(p["Dense_0"]))
        self.channels = nn.Sequential(_linear(p["Dense_3"]), nn.GELU("tanh"), _linear(p["Dense_2"]))
        self.head = _linear(p["Dense_4"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, 3]``."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm2(x))).mean(1))


class UNet(Twin):
    """Of :class:`~experiments.interpretation.networks.UNet`; ``output`` is label, logit or mask."""

    def __init__(self, variables: Params, output: str) -> None:
        super().__init__()
        p = variables["params"]
        self.down, self.leaky, self.pool = _conv(p["down"]), nn.LeakyReLU(0.01), nn.MaxPool2d(2)
        self.bottom, self.relu6, self.mean = _conv(p["bottom"]), nn.ReLU6(), Mean()
        self.mask, self.label, self.logit = _conv(p["mask"]), _linear(p["Dense_0"]), _linear(p["Dense_1"])
        self.output, self.layer = output, self.bottom

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, classes]``."""
        top = self.leaky(self.down(x))
        bottom = self.relu6(self.bottom(self.pool(top)))
        if self.output == "mask":
            up = F.interpolate(bottom, scale_factor=2.0, mode="nearest")
            return self.mean(self.mask(torch.cat([up, top], 1)))
        head = {"label": self.label, "logit": self.logit}[self.output]
        return head(self.mean(bottom))


class Plain(Twin):
    """Of :func:`~experiments.interpretation.networks.plain`."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.relu, self.mean = _conv({"kernel": networks.KERNEL}), nn.ReLU(), Mean()
        self.head, self.layer = _linear({"kernel": networks.HEAD}), self.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits ``[batch, 3]``."""
        return self.head(self.mean(self.relu(self.convolution(x))))


def twin(name: str) -> Twin:
    """Makes the twin of a network of :data:`~experiments.interpretation.networks.NETWORKS`, in float64."""
    arguments = networks.NETWORKS[name]().arguments
    makers: Mapping[str, Callable[[], Twin]] = {
        "ResNet, Linen": lambda: ResNet(arguments[1]),
        "ResNet, NNX": lambda: NnxResNet(arguments[0]),
        "ConvNeXt": lambda: ConvNext(arguments[1]),
        "ViT": lambda: ViT(arguments[1]),
        "MLP-Mixer": lambda: Mixer(arguments[1]),
        "U-Net, label": lambda: UNet(arguments[1], "label"),
        "U-Net, one logit": lambda: UNet(arguments[1], "logit"),
        "U-Net, mask": lambda: UNet(arguments[1], "mask"),
    }
    made = makers.get(name, Plain)()
    return made.double().eval()


def _tensor(value: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(value, np.float64))


def _held(module: Any) -> dict[str, Any]:
    """An NNX module's arrays, by name."""
    names = ("kernel", "bias", "scale")
    return {name: getattr(module, name)[...] for name in names if getattr(module, name, None) is not None}


def _filled(module: Any, p: Params) -> Any:
    module.weight = nn.Parameter(_tensor(p["scale"]))
    module.bias = nn.Parameter(_tensor(p["bias"]))
    return module


def _norm(p: Params) -> nn.Module:
    norm: nn.Module = _filled(nn.LayerNorm(np.shape(p["scale"]), eps=1e-6), p)
    return norm


def _linear(p: Params) -> nn.Module:
    kernel = _tensor(p["kernel"])
    linear = nn.Linear(*kernel.shape, bias="bias" in p)
    linear.weight = nn.Parameter(kernel.T)
    if "bias" in p:
        linear.bias = nn.Parameter(_tensor(p["bias"]).flatten())
    return linear


def _conv(p: Params, stride: int = 1, *, groups: int = 1, valid: bool = False) -> nn.Module:
    """A convolution of images whose sides the stride divides, padded as SAME."""
    kernel = _tensor(p["kernel"]).permute(3, 2, 0, 1)
    side = kernel.shape[-1]
    conv = nn.Conv2d(groups * kernel.shape[1], len(kernel), side, stride, groups=groups, bias="bias" in p)
    conv.weight = nn.Parameter(kernel)
    if "bias" in p:
        conv.bias = nn.Parameter(_tensor(p["bias"]))
    total = 0 if valid else max(side - stride, 0)
    if total % 2:
        return nn.Sequential(nn.ZeroPad2d((total // 2, total - total // 2) * 2), conv)
    conv.padding = (total // 2, total // 2)
    return conv


def _folded(params: Params, statistics: Params, i: int) -> dict[str, Any]:
    """A block's convolution with the BatchNorm behind it."""
    norm, measured = params[f"BatchNorm_{i}"], statistics[f"BatchNorm_{i}"]
    numbers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (norm, measured))
    scale = numbers[0]["scale"] / np.sqrt(numbers[1]["var"] + 1e-5)
    kernel = np.asarray(params[f"Conv_{i}"]["kernel"], np.float64) * scale
    return {"kernel": kernel, "bias": numbers[0]["bias"] - numbers[1]["mean"] * scale}
