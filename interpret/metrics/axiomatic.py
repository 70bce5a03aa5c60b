"""Axioms: what a map must do whatever the network is."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import Method, apply, check_maps, checked_baseline, checked_images, checked_maps
from interpret.graph import Images, Model
from interpret.metrics.common import Each, checked_target
from interpret.targets import Target


def completeness(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    attribution: Images,
    *,
    baseline: float | Images = 0.0,
) -> Each:
    """How far a map's sum is from the score's difference from a baseline, relatively: 0 or more; lower is better.

    ``|sum A - (s(x) - s(b))| / |s(x) - s(b)|``; 0 where both are equal, infinity where only the difference is 0.
    Sundararajan, Taly and Yan, ICML 2017 (arXiv:1703.01365). Only methods that claim it can be held to it: integrated
    gradients, DeepLIFT, Shapley values; relevance propagation where there are no biases and the baseline's score is 0.

    Args:
        model: as the methods take it.
        variables: its variables.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: what the attribution explains.
        attribution: of the images' shape.
        baseline: that of the method.

    Raises:
        FaceflaxError: images, target, attribution or baseline that do not fit the model or each other.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.sum((1, 2)), {}
        >>> images = jnp.ones((1, 2, 2, 1))
        >>> print(completeness(Sum(), {}, images, 0, images), completeness(Sum(), {}, images, 0, 0 * images))
        [0.] [1.]
    """
    images, score = checked_target(model, variables, images, target)
    attribution = checked_maps("attribution", attribution)
    if attribution.shape != images.shape:
        raise FaceflaxError("attribution", attribution.shape, f"shape {{}} is not the images' {images.shape}")
    score = score.fixed(*apply(model, variables, images))
    ground = checked_baseline(baseline, images)
    whole, nothing = (score.of(*apply(model, variables, x)) for x in (images, ground))
    error = jnp.abs(attribution.sum((1, 2, 3)) - (whole - nothing))
    return jnp.where(error == 0, 0, error / jnp.abs(whole - nothing))


@dataclasses.dataclass(frozen=True)
class _Shifted:
    """A model that takes a constant off the images first."""

    model: Model
    shift: float

    def apply(self, variables: Any, images: Images, *, train: bool) -> Any:
        return self.model.apply(variables, images - self.shift, train=train)


def input_invariance(
    method: Method, model: Model, variables: Any, images: Images, target: Target, *, shift: float = 0.5
) -> Each:
    """How far a map moves when the images are shifted and the network takes the shift off again: 0 or more; 0 is best.

    ``|A'(x + c) - A(x)| / |A(x)|`` with Euclidean norms, where ``A'`` explains a network that computes the same of
    shifted images. Kindermans, Hooker, Adebayo et al., "The (Un)reliability of Saliency Methods", 2019
    (arXiv:1711.00867). Gradients pass. What multiplies by the image, or compares with a fixed grey, does not, unless
    its baseline moves as well: that is a property of the baseline, not of the network.

    Args:
        method: an attribution method.
        model: as the methods take it.
        variables: its variables.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: what the method explains.
        shift: what is added to every pixel.

    Raises:
        FaceflaxError: as the method, or maps with NaN or infinity.

    Example:
        >>> import interpret, flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.sum((1, 2)), {}
        >>> images = jnp.ones((1, 2, 2, 1))
        >>> for method in (interpret.gradient, interpret.gradient_x_input):
        ...     print(input_invariance(method, Sum(), {}, images, 0))
        [0.]
        [0.5]
    """
    images = checked_images(images)
    here = method(model, variables, images, target)
    there = method(_Shifted(model, shift), variables, images + shift, target)
    for maps in (here, there):
        check_maps("method", maps)

    def norm(maps: Float[Array, "batch ..."]) -> Each:
        return jnp.sqrt((maps.reshape(maps.shape[0], -1).astype(jnp.float32) ** 2).sum(1))

    distance = norm(there - here)
    return jnp.where(distance == 0, 0, distance / norm(here))
