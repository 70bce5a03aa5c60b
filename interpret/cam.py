"""Class activation maps: which places of a layer raise the score, drawn at the images' size.

Maps are as coarse as the layer and are enlarged to the images' height and width bilinearly (``jax.image.resize``, pixel
centres aligned, borders repeated); every channel of an image gets the same map. They are zero or positive.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import answer_shapes, method
from interpret.gradients import guided_backprop
from interpret.graph import Images, Model, Slot, trace
from interpret.targets import Target, checked_layer


@method("relu", "enlarge")
def grad_cam(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    relu: bool = True,
    enlarge: bool = True,
) -> Images:
    """Grad-CAM: a layer's channels, each weighted by the mean of its gradient.

    ``L = relu(sum_k w_k A_k)`` with ``w_k = mean over pixels of d s / d A_k``. Selvaraju et al., "Grad-CAM: Visual
    Explanations from Deep Networks via Gradient-based Localization", ICCV 2017 (arXiv:1610.02391).

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: a name in ``features`` whose activations are ``[batch, height, width, channels]``; a late one. It must
            lead to the score, or be a copy (transposed, reshaped, cast, a slice) of activations that do.
        relu: cut what lowers the score, as the paper does; without it the map is signed.
        enlarge: to the size of the images, and of all their channels; if not, ``[batch, height, width, 1]`` of the
            layer.

    Returns:
        A map of the shape of ``images``, zero or positive, or as ``relu`` and ``enlarge`` say.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or a layer without rows and columns, or one that the
            score does not depend on.
    """
    activations, gradients = _activations_and_gradients(model, variables, images, target, layer)
    weights = gradients.mean((1, 2), keepdims=True)
    cam = (weights * activations).sum(-1)
    cam = jax.nn.relu(cam) if relu else cam
    return _enlarged(cam, images) if enlarge else cam[..., None]


@method()
def grad_cam_plus_plus(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Grad-CAM++: Grad-CAM whose weights count each place by how much it explains, so that small or many ones show.

    ``L = relu(sum_k w_k A_k)``, ``w_k = sum_ij a_kij relu(g_kij)``, ``a = g^2 / (2 g^2 + sum_ij A_kij g^3)`` with
    ``g = d s / d A``: the paper's closed form, whose score is ``exp(s)``. Chattopadhay, Sarkar, Howlader and
    Balasubramanian, "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks", WACV
    2018 (arXiv:1710.11063).

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`grad_cam`.

    Returns:
        A map of the shape of ``images``, zero or positive.

    Raises:
        FaceflaxError: as in :func:`grad_cam`.
    """
    activations, gradients = _activations_and_gradients(model, variables, images, target, layer)
    denominator = 2 + activations.sum((1, 2), keepdims=True) * gradients  # over g^2, which may be too small to have one
    shares = jnp.where(denominator == 0, 0, 1 / jnp.where(denominator == 0, 1, denominator))
    weights = (shares * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
    return _enlarged(jax.nn.relu((weights * activations).sum(-1)), images)


@method()
def layer_cam(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """LayerCAM: a layer's activations, each weighted by its own positive gradient; fine maps from early layers.

    ``L = relu(sum_k relu(d s / d A_k) A_k)``. Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for
    Localization", IEEE TIP 2021 (doi:10.1109/TIP.2021.3089943).

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`grad_cam`, any.

    Returns:
        A map of the shape of ``images``, zero or positive.

    Raises:
        FaceflaxError: as in :func:`grad_cam`.
    """
    activations, gradients = _activations_and_gradients(model, variables, images, target, layer)
    return _enlarged(jax.nn.relu((jax.nn.relu(gradients) * activations).sum(-1)), images)


@method()
def guided_grad_cam(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Guided Grad-CAM: guided backpropagation, times Grad-CAM: its edges, where the map is high.

    ``A = guided_backprop * grad_cam``. Selvaraju et al., ICCV 2017 (arXiv:1610.02391).

    Args:
        model: as in :func:`~interpret.gradients.guided_backprop`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`grad_cam`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`grad_cam` and :func:`~interpret.gradients.guided_backprop`.
    """
    guided = guided_backprop(model, variables, images, target, layer=layer)
    return guided * grad_cam(model, variables, images, target, layer=layer)


Maps = Float[Array, "batch rows columns channels"]


def _activations_and_gradients(
    model: Model, variables: Any, images: Images, target: Any, layer: str
) -> tuple[Maps, Maps]:
    """A layer's activations, and the gradient of each image's score by them."""
    shape = checked_layer(layer, answer_shapes(model, variables, images)[1])
    if len(shape.shape) != 4:
        raise FaceflaxError(
            "layer", layer, f"{{}} has shape {shape.shape}", "a map needs [batch, height, width, channels]"
        )
    graph = trace(model, variables, images)
    place = graph.place(layer, target.layer)

    def score(shifts: dict[Slot, Array]) -> tuple[Float[Array, ""], dict[Slot, Array]]:
        values = graph.run(shifts=shifts)
        return target.of(*graph.answer(values)).sum(), values

    gradients, values = jax.grad(score, has_aux=True)(place.unmoved)
    return values[place.layer], place.viewed(gradients, values)


def _enlarged(cam: Float[Array, "batch rows columns"], images: Images) -> Images:
    cam = jax.image.resize(cam, images.shape[:3], "linear")
    return jnp.broadcast_to(cam[..., None], images.shape)
