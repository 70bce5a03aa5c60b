"""Methods that are one backward pass, or a mean of several."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interpret.attribution import apply, at_least, checked_baseline, method
from interpret.copies import OPTIONS, Progress, total
from interpret.graph import Images, Model, with_relu
from interpret.rules import deconvnet_relu, guided_relu
from interpret.targets import Target


@method()
def gradient(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """The target's gradient with respect to the images.

    ``A = d s / d x``. Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image
    Classification Models and Saliency Maps", 2014 (arXiv:1312.6034); their map is ``|A|``, here the sign is kept.

    Args:
        model: a module with ``logits, features = model.apply(variables, images, train=False)``.
        variables: its parameters and statistics.
        images: floating point ``[batch, height, width, channels]``, scaled as the model takes them.
        target: what is explained, for each image: a class (int or int array ``[batch]``), whose logit is meant; a
            :class:`~interpret.targets.Neuron`, :class:`~interpret.targets.Channel`, :class:`~interpret.targets.Layer`
            or :class:`~interpret.targets.Difference`; or None for the highest activation of ``layer``, chosen image by
            image.
        layer: a name in ``features``; read when ``target`` is None.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: unknown layer, target out of range, or images of a wrong rank, type or channel count or with a
            value that is not finite.

    Example:
        >>> import flax.linen as nn
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, images, train=False):
        ...         last_conv = nn.Conv(7, (3, 3))(images)
        ...         return last_conv.mean((1, 2)), {"last_conv": last_conv}
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> variables = Net().init(jax.random.key(0), images)
        >>> gradient(Net(), variables, images, target=3).shape
        (2, 8, 8, 1)
    """
    return _gradient(lambda x: apply(model, variables, x), images, target)


@method()
def gradient_x_input(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """The gradient times the image: what each pixel adds to the score, were the network linear.

    ``A = x * d s / d x``; exact for a piecewise linear network without biases, whose score it then sums to. Shrikumar,
    Greenside, Shcherbina and Kundaje, "Not Just a Black Box", 2016 (arXiv:1605.01713).

    Args:
        model: as in :func:`gradient`.
        variables: as in :func:`gradient`.
        images: as in :func:`gradient`.
        target: as in :func:`gradient`.
        layer: as in :func:`gradient`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`gradient`.
    """
    return images * _gradient(lambda x: apply(model, variables, x), images, target)


@method()
def guided_backprop(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Guided backpropagation: :func:`gradient` with every ReLU replaced by :func:`interpret.rules.guided_relu`.

    A ReLU passes ``g`` on as ``max(g, 0) [x > 0]``. Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for
    Simplicity: The All Convolutional Net", ICLR workshop 2015 (arXiv:1412.6806). It draws edges more than reasons: the
    map hardly changes when the network's upper layers are randomised (Adebayo et al., "Sanity Checks for Saliency
    Maps", NeurIPS 2018, arXiv:1810.03292).

    Args:
        model: as in :func:`gradient`; its ReLUs are found in what it computes, wherever they stand and however they are
            written (:func:`interpret.graph.with_relu`), also those that a hard sigmoid is made of.
        variables: as in :func:`gradient`.
        images: as in :func:`gradient`.
        target: as in :func:`gradient`.
        layer: as in :func:`gradient`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`gradient`, or the model has no ReLU, or one that cannot be replaced.
    """
    return _gradient(lambda x: with_relu(model, variables, x, guided_relu), images, target)


@method()
def deconvnet(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Deconvnet: :func:`gradient` with every ReLU replaced by :func:`interpret.rules.deconvnet_relu`.

    A ReLU passes ``g`` on as ``max(g, 0)``. Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
    ECCV 2014 (arXiv:1311.2901).

    Args:
        model: as in :func:`guided_backprop`.
        variables: as in :func:`gradient`.
        images: as in :func:`gradient`.
        target: as in :func:`gradient`.
        layer: as in :func:`gradient`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`guided_backprop`.
    """
    return _gradient(lambda x: with_relu(model, variables, x, deconvnet_relu), images, target)


@method("steps", "return_error", *OPTIONS)
def integrated_gradients(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
    steps: int = 50,
    return_error: bool = False,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """Integrated gradients: the gradient's mean on the way from a baseline to the image, times the way.

    ``A = (x - b) * integral from 0 to 1 of (d s / d x)(b + t (x - b)) dt``, as the mean over the middles of equal
    steps. It is complete: ``sum A = s(x) - s(b)``, up to the steps' error. Sundararajan, Taly and Yan, "Axiomatic
    Attribution for Deep Networks", ICML 2017 (arXiv:1703.01365).

    Args:
        model: as in :func:`gradient`.
        variables: as in :func:`gradient`.
        images: as in :func:`gradient`.
        target: as in :func:`gradient`; the highest activation is that of the images, all along the way.
        layer: as in :func:`gradient`.
        baseline: what stands for nothing to see: one value for all pixels (0 is middle grey) or an array that
            broadcasts to the images.
        steps: where on the way the gradient is taken; memory does not grow with the number.
        return_error: also return how far the sum is from complete.
        internal_batch_size: how many images are evaluated at a time, but at least ``images`` themselves; as many as
            fit into :data:`interpret.copies.BYTES_AT_ONCE` if not given.
        progress: called as ``progress(done, count)`` from time to time; give the same function each time, since a
            method is compiled for it.

    Returns:
        Signed attribution of the shape of ``images``; with ``return_error`` a pair of it and the completeness error of
        each image, ``|sum A - (s(x) - s(b))| / |s(x) - s(b)|``, which is 0 where both are equal.

    Raises:
        FaceflaxError: as in :func:`gradient`, fewer than one step, or a baseline that does not
            fit the images.
    """
    at_least("steps", steps, 1)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    start = checked_baseline(baseline, images)
    way = images - start

    def on_the_way(i: Array) -> Images:
        place = ((i + 0.5) / steps).astype(images.dtype)
        return _gradient(lambda x: apply(model, variables, x), start + place * way, target)

    attribution = way * total(on_the_way, steps, images.shape[0], internal_batch_size, progress) / steps
    if not return_error:
        return attribution
    difference = target.of(*apply(model, variables, images)) - target.of(*apply(model, variables, start))
    error = jnp.abs(attribution.sum((1, 2, 3)) - difference)
    return attribution, jnp.where(error == 0, 0, error / jnp.abs(difference))


def _gradient(answer: Any, images: Images, target: Any) -> Images:
    def score(x: Images) -> Float[Array, ""]:
        return target.of(*answer(x)).sum()  # images do not mix: this gradient holds each one's own

    return jax.grad(score)(images)
