"""Methods made of other methods: what noise in the image does to a map."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from faceflax.errors import FaceflaxError
from interpret.attribution import Method, apply, at_least, method
from interpret.copies import OPTIONS, Progress, total
from interpret.graph import Images, Model
from interpret.targets import Target


def _once(make: Callable[..., Method]) -> Callable[..., Method]:
    """Makes each method once; a call with wrong arguments is told so, not that they cannot be looked up."""
    made = functools.cache(make)

    @functools.wraps(make)
    def call(of: Method, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Method:
        if not isinstance(of, Hashable) or not callable(of):
            raise FaceflaxError(
                "of", None, f"{type(of).__name__} is not a method", "give one, such as interpret.gradient"
            )
        return made(of, samples=samples, noise=noise, seed=seed)

    return call


@_once
def smooth_grad(of: Method, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Method:
    """SmoothGrad: the mean map of noisy copies of an image.

    ``A = mean over n of M(x + e_n)``, ``e_n ~ N(0, (noise (max x - min x))^2)``. Smilkov, Thorat, Kim, Viégas and
    Wattenberg, "SmoothGrad: removing noise by adding noise", 2017 (arXiv:1706.03825).

    Args:
        of: the method ``M`` whose maps are averaged, such as :func:`~interpret.gradients.gradient`.
        samples: how many noisy copies.
        noise: the noise's standard deviation, as a share of each image's range.
        seed: of the noise, which is the same for all images of a batch but for its deviation, so that an image's map
            does not depend on those beside it.

    Returns:
        A method, with the options ``internal_batch_size`` and ``progress`` of
        :func:`~interpret.gradients.integrated_gradients`. The highest activation, as its target, is that of the image
        without noise.

    Raises:
        FaceflaxError: no samples, or negative noise.

    Example:
        >>> from interpret import gradient
        >>> smooth = smooth_grad(gradient, samples=50)  # then smooth(model, variables, images, target)
        >>> smooth.__name__
        'smooth_grad'
    """
    at_least("samples", samples, 1)
    at_least("noise", noise, 0)

    @method(*OPTIONS)
    def smoothed(
        model: Model,
        variables: Any,
        images: Images,
        target: Target = None,
        *,
        layer: str = "last_conv",
        internal_batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Images:
        target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]

        def noisy(i: Any) -> Images:
            return of(model, variables, _with_noise(images, noise, seed, i), target, layer=layer)

        return total(noisy, samples, images.shape[0], internal_batch_size, progress) / samples

    return _named(smoothed, smooth_grad)


@_once
def var_grad(of: Method, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Method:
    """VarGrad: the variance of the maps of noisy copies of an image.

    ``A = mean over n of (M(x + e_n) - mean M)^2``, with the noise of :func:`smooth_grad`. Adebayo, Gilmer, Goodfellow
    and Kim, "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values", ICLR workshop
    2018 (arXiv:1810.03307).

    Args:
        of: as in :func:`smooth_grad`.
        samples: as in :func:`smooth_grad`; at least two.
        noise: as in :func:`smooth_grad`.
        seed: as in :func:`smooth_grad`.

    Returns:
        A method whose maps are zero or positive.

    Raises:
        FaceflaxError: as in :func:`smooth_grad`.
    """
    at_least("samples", samples, 2)
    at_least("noise", noise, 0)

    @method(*OPTIONS)
    def variance(
        model: Model,
        variables: Any,
        images: Images,
        target: Target = None,
        *,
        layer: str = "last_conv",
        internal_batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Images:
        target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
        centre = of(model, variables, images, target, layer=layer)  # near the mean, so that no digits are lost

        def moments(i: Any) -> tuple[Images, Images]:
            distance = of(model, variables, _with_noise(images, noise, seed, i), target, layer=layer) - centre
            return distance, distance**2

        first, second = total(moments, samples, images.shape[0], internal_batch_size, progress)
        return jnp.maximum(second / samples - (first / samples) ** 2, 0)

    return _named(variance, var_grad)


@_once
def smooth_grad_squared(of: Method, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Method:
    """SmoothGrad-squared: the mean of the squared maps of noisy copies of an image.

    ``A = mean over n of M(x + e_n)^2``, with the noise of :func:`smooth_grad`. Hooker, Erhan, Kindermans and Kim, "A
    Benchmark for Interpretability Methods in Deep Neural Networks", NeurIPS 2019 (arXiv:1806.10758). Misleads: it is
    the square of SmoothGrad's map and VarGrad's together, so a pixel may be bright for either.

    Args:
        of: as in :func:`smooth_grad`.
        samples: as in :func:`smooth_grad`.
        noise: as in :func:`smooth_grad`.
        seed: as in :func:`smooth_grad`.

    Returns:
        A method whose maps are zero or positive.

    Raises:
        FaceflaxError: as in :func:`smooth_grad`.
    """
    at_least("samples", samples, 1)
    at_least("noise", noise, 0)

    @method(*OPTIONS)
    def squared(
        model: Model,
        variables: Any,
        images: Images,
        target: Target = None,
        *,
        layer: str = "last_conv",
        internal_batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Images:
        target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]

        def noisy(i: Any) -> Images:
            return of(model, variables, _with_noise(images, noise, seed, i), target, layer=layer) ** 2

        return total(noisy, samples, images.shape[0], internal_batch_size, progress) / samples

    return _named(squared, smooth_grad_squared)


def _with_noise(images: Images, noise: float, seed: int, i: Any) -> Images:
    spread = noise * (images.max((1, 2, 3), keepdims=True) - images.min((1, 2, 3), keepdims=True))
    key = jax.random.fold_in(jax.random.key(seed), i)
    drawn = jax.random.normal(key, (1, *images.shape[1:]), jnp.float32)  # the same whatever the images' precision
    return images + spread * drawn.astype(images.dtype)


def _named(made: Method, maker: Method) -> Method:
    made.__name__, made.__doc__ = maker.__name__, maker.__doc__
    return made
