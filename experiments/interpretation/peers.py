"""What Captum and Zennit answer on the twins, with the options that make their method ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.interpretation.networks import QUICK

if TYPE_CHECKING:
    import torch

    from experiments.interpretation.twins import Twin

    Run = Callable[[Twin, torch.Tensor, int], torch.Tensor]
else:
    Run = Callable


def _captum(name: str, *, of: Callable[[Any], Any] = lambda method: method, **options: Any) -> Run:
    def run(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
        import captum.attr

        answer: torch.Tensor = of(getattr(captum.attr, name)(twin)).attribute(images, target=target, **options)
        return answer

    return run


def _deep_lift_shap(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
    """Of each image's own flat baselines, as ours are by default."""
    import torch
    from captum.attr import DeepLiftShap

    from interpret.paths import FLAT

    maps = []
    for image in images[:, None]:
        low, high = image.min(), image.max()
        shares = (torch.arange(FLAT) + 0.5) / FLAT
        baselines = (low + shares * (high - low))[:, None, None, None].expand(-1, *image.shape[1:])
        maps.append(DeepLiftShap(twin).attribute(image, baselines.to(image), target=target))
    return torch.cat(maps)


def _grad_cam(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(twin, twin.layer).attribute(images, target=target, relu_attributions=True)
    return LayerAttribution.interpolate(cam, images.shape[2:], "bilinear").expand_as(images)


def _guided_grad_cam(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
    from captum.attr import GuidedGradCam

    answer: torch.Tensor = GuidedGradCam(twin, twin.layer).attribute(images, target=target, interpolate_mode="bilinear")
    return answer


def _cells(images: torch.Tensor) -> torch.Tensor:
    """The squares that ours hides by default."""
    import torch

    from interpret.coalitions import CELLS

    rows, columns = (torch.arange(size) * CELLS // size for size in images.shape[2:])
    return (rows[:, None] * CELLS + columns[None])[None, None]


def _ablation(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
    return _captum("FeatureAblation", feature_mask=_cells(images))(twin, images, target)


def _occlusion(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
    side = QUICK["occlusion"]["patch"]
    windows: dict[str, Any] = {
        "sliding_window_shapes": (images.shape[1], side, side),
        "strides": (images.shape[1], side, side),
    }
    return _captum("Occlusion", **windows)(twin, images, target)


def _zennit(convolution: str, dense: str, first: str | None = None) -> Run:
    def run(twin: Twin, images: torch.Tensor, target: int) -> torch.Tensor:
        import torch
        from torch import nn
        from zennit.attribution import Gradient
        from zennit.composites import SpecialFirstLayerMapComposite
        from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZPlus
        from zennit.types import Activation, AvgPool

        from experiments.interpretation.twins import Add

        rules = {
            "epsilon": lambda: Epsilon(epsilon=1e-6),
            "alpha_beta": lambda: AlphaBeta(alpha=2, beta=1),
            "z_plus": ZPlus,
            "gamma": lambda: Gamma(gamma=0.25),
            "flat": Flat,
            "w_squared": lambda: WSquare(zero_params="bias"),  # as the formula has it
        }
        layers = [(Activation, Pass()), (Add, Norm()), (AvgPool, Norm())]
        layers += [(nn.Conv2d, rules[convolution]()), (nn.Linear, rules[dense]())]
        special = [] if first is None else [(nn.Conv2d, rules[first]())]
        composite = SpecialFirstLayerMapComposite(layer_map=layers, first_map=special)
        with Gradient(model=twin, composite=composite) as method:
            logits = twin(images)
            score = torch.zeros_like(logits)
            score[:, target] = logits[:, target].detach()
            answer: torch.Tensor = method(images, score)[1]
        return answer

    return run


class Peer(NamedTuple):
    """A method of a peer.

    Attributes:
        peer: its name.
        run: what it answers on a twin.
    """

    peer: str
    run: Run


PEERS: Mapping[str, Peer] = {
    "gradient": Peer("Captum", _captum("Saliency", abs=False)),
    "gradient_x_input": Peer("Captum", _captum("InputXGradient")),
    "integrated_gradients": Peer(
        "Captum",
        _captum("IntegratedGradients", n_steps=QUICK["integrated_gradients"]["steps"], method="riemann_middle"),
    ),
    "guided_backprop": Peer("Captum", _captum("GuidedBackprop")),
    "deconvnet": Peer("Captum", _captum("Deconvolution")),
    "deep_lift": Peer("Captum", _captum("DeepLift")),
    "deep_lift_shap": Peer("Captum", _deep_lift_shap),
    "grad_cam": Peer("Captum", _grad_cam),
    "guided_grad_cam": Peer("Captum", _guided_grad_cam),
    "occlusion": Peer("Captum", _occlusion),
    "feature_ablation": Peer("Captum", _ablation),
    "lrp_epsilon": Peer("Zennit", _zennit("epsilon", "epsilon")),
    "lrp_alpha_beta": Peer("Zennit", _zennit("alpha_beta", "alpha_beta")),
    "lrp_z_plus": Peer("Zennit", _zennit("z_plus", "z_plus")),
    "lrp_gamma": Peer("Zennit", _zennit("gamma", "epsilon")),
    "lrp_epsilon_plus": Peer("Zennit", _zennit("z_plus", "epsilon")),
    "lrp_epsilon_plus_flat": Peer("Zennit", _zennit("z_plus", "epsilon", "flat")),
    "lrp_w_squared": Peer("Zennit", _zennit("z_plus", "epsilon", "w_squared")),
}
"""For each method whose answer no chance decides, the peer that has it."""

LAYERED = frozenset({"grad_cam", "guided_grad_cam"})
"""The methods that need the twin's layer to have rows and columns."""

TOKENS = frozenset({"ViT", "MLP-Mixer"})
"""The networks whose layer is of tokens."""


def answer(method: str, name: str, images: Any, target: int) -> Float[np.ndarray, "batch height width channels"]:
    """What the peer answers on a network's twin, as ours does: channels last."""
    import torch

    from experiments.interpretation.twins import twin

    inputs = torch.tensor(np.asarray(images, np.float64)).permute(0, 3, 1, 2).contiguous().requires_grad_()
    maps = PEERS[method].run(twin(name), inputs, target)
    return maps.expand_as(inputs).detach().permute(0, 2, 3, 1).numpy()


def relative_error(ours: Any, theirs: np.ndarray) -> float:
    """``norm(ours - theirs) / norm(theirs)``."""
    return float(np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs))


@cache
def missing() -> frozenset[str]:
    """The peers that cannot be imported, PyTorch included."""
    absent = set()
    for peer, module in (("Captum", "captum"), ("Zennit", "zennit")):
        try:
            importlib.import_module("torch")
            importlib.import_module(module)
        except ImportError:
            absent.add(peer)
    return frozenset(absent)


_LOST = (
    "Where nothing speaks for an output, Zennit's z+ and alpha-beta rules drop its relevance; ours give it to what "
    "speaks against, so that none is lost. With ours changed to drop it, 1e-5 is left, of Zennit's stabiliser."
)
_SUMMED = (
    " Zennit shares out a sum of branches by its terms' values (Norm) under every composite; `lrp_alpha_beta` by "
    "alpha-beta, as Bach et al.'s formula has it for any layer. With ours changed in both, 8e-5 is left."
)
_MEAN = (
    "Zennit shares out a mean by its terms' values (Norm) under every composite; `lrp_alpha_beta` by alpha-beta, as "
    "Bach et al.'s formula has it for any layer. Where all pixels of the mask are positive, 3e-6 is left."
)
_STABILISED = (
    "Rounding of float32, and the small number that keeps quotients finite, which Zennit's Norm rule has of its own: "
    "in float64 1e-5 is left."
)
_RELU6 = (
    "Captum replaces modules of `nn.ReLU`, and leaves a ReLU6 as it is. Where the twin's ReLU6 is a ReLU and a "
    "minimum, both answer alike to 1e-7."
)
_COMPLETE = "Ours is complete there (`sum A = s(x) - s(b)`), which the tests of `deep_lift` check."
_NO_RULE = (
    "Captum multiplies by the gradient where it has no rule: GELU, SiLU, normalisation and products of activations. "
    f"{_COMPLETE} From a flat baseline a normalisation divides by its epsilon alone, which makes contributions that "
    "are large and cancel."
)
_POOLED = (
    f"Captum multiplies by the gradient where it has no rule: ReLU6. {_COMPLETE} With Captum's rule of ReLU for it, "
    "both are complete, and 1e-2 to 3e-2 is left, of max pooling: with mean pooling 1e-7."
)


def difference(method: str, name: str) -> str:
    """Why the peer answers otherwise, and who is right, as far as it is known."""
    unet = name.startswith("U-Net")
    if PEERS[method].peer == "Zennit":
        if unet:
            return _MEAN if (method, name) == ("lrp_alpha_beta", "U-Net, mask") else _STABILISED
        return _LOST + (_SUMMED if method == "lrp_alpha_beta" else "")
    if method.startswith("deep_lift"):
        return _POOLED if unet else _NO_RULE
    if unet and method in ("guided_backprop", "deconvnet", "guided_grad_cam"):
        return _RELU6
    return "Not explained yet."
