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
from interpret.attribution import answer_shapes, apply, checked_baseline, method
from interpret.copies import OPTIONS, Progress, every
from interpret.gradients import guided_backprop
from interpret.graph import Images, Model, Slot, trace
from interpret.layers import inside
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


@method()
def hires_cam(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """HiResCAM: a layer's activations, each weighted by its own gradient, so that no place borrows another's weight.

    ``L = relu(sum_k g_k A_k)`` with ``g = d s / d A``. Draelos and Carin, "Use HiResCAM instead of Grad-CAM for
    faithful explanations of convolutional neural networks", 2020 (arXiv:2011.08891). Where one linear layer follows, it
    sums to the score before the ReLU. Misleads: behind more layers it is gradient times activation, with their kinks.

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
    return _enlarged(jax.nn.relu((gradients * activations).sum(-1)), images)


@method()
def x_grad_cam(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """XGrad-CAM: Grad-CAM whose weights count each place's gradient by its share in the channel's activation.

    ``L = relu(sum_k w_k A_k)``, ``w_k = sum_ij A_kij g_kij / sum_ij A_kij`` with ``g = d s / d A``. Fu, Hu, Dong, Guo,
    Gao and Li, "Axiom-based Grad-CAM", BMVC 2020 (arXiv:2008.02312). Misleads: a channel whose activations nearly
    cancel gets a huge weight; one whose sum is zero gets none.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`grad_cam`; best one behind a ReLU.

    Returns:
        A map of the shape of ``images``, zero or positive.

    Raises:
        FaceflaxError: as in :func:`grad_cam`.
    """
    activations, gradients = _activations_and_gradients(model, variables, images, target, layer)
    sums = activations.sum((1, 2), keepdims=True)
    both = (activations * gradients).sum((1, 2), keepdims=True)
    weights = jnp.where(sums == 0, 0, both / jnp.where(sums == 0, 1, sums))
    return _enlarged(jax.nn.relu((weights * activations).sum(-1)), images)


@method()
def eigen_cam(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Eigen-CAM: a layer's activations along the direction that holds most of them, whatever the target.

    ``L = relu(A v)`` with ``v`` the first right singular vector of the layer as a matrix of places by channels, its
    sign such that the map's sum is positive. Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal
    Components", IJCNN 2020 (arXiv:2008.00299). Misleads: it does not know the target, so it explains no decision.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: checked, and not used.
        layer: as in :func:`grad_cam`.

    Returns:
        A map of the shape of ``images``, zero or positive.

    Raises:
        FaceflaxError: as in :func:`grad_cam`.
    """
    activations, _ = _activations_and_gradients(model, variables, images, target, layer)
    channels = activations.shape[-1]
    matrix = activations.reshape(activations.shape[0], -1, channels)
    matrix = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))
    _, directions = jnp.linalg.eigh(jnp.einsum("npc,npd->ncd", matrix, matrix))  # in rising order
    along = jnp.einsum("npc,nc->np", matrix, directions[..., -1])
    along = along * jnp.where(along.sum(1, keepdims=True) < 0, -1, 1)
    cam = jax.nn.relu(along).reshape(activations.shape[:3]).astype(images.dtype)
    return _enlarged(cam, images)


@method(*OPTIONS)
def score_cam(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Score-CAM: a layer's channels, each weighted by the score of the image behind it as a mask.

    ``L = relu(sum_k w_k A_k)``, ``w = softmax over k of s(b + m_k (x - b))`` with ``m_k`` the channel enlarged to the
    image and scaled to [0, 1]. Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural
    Networks", CVPR workshops 2020 (arXiv:1910.01279). No gradient is asked for, and one forward pass for each channel.
    Misleads: the softmax of scores of unbounded size gives nearly all weight to the best channel; channels that speak
    against the target get a positive weight.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole image.
        layer: as in :func:`grad_cam`, but it need not lead to the score.
        baseline: what a masked pixel becomes, as in :func:`~interpret.perturbation.occlusion`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        A map of the shape of ``images``, zero or positive.

    Raises:
        FaceflaxError: as in :func:`grad_cam`, or a baseline that does not fit.
    """
    ground = checked_baseline(baseline, images)
    _check_places(model, variables, images, layer)
    answer = apply(model, variables, images)
    target, activations = target.fixed(*answer), answer[1][layer]  # type: ignore[union-attr]

    def score(k: Array) -> Float[Array, " batch"]:
        mask = jax.image.resize(activations[..., k], images.shape[:3], "linear")
        low, high = mask.min((1, 2), keepdims=True), mask.max((1, 2), keepdims=True)
        mask = (mask - low) / jnp.where(high > low, high - low, 1)
        behind = ground + mask[..., None].astype(images.dtype) * (images - ground)
        return target.of(*apply(model, variables, behind))

    scores = every(score, activations.shape[-1], images.shape[0], internal_batch_size, progress)
    weights = jax.nn.softmax(scores, 0).T[:, None, None]
    return _enlarged(jax.nn.relu((weights * activations).sum(-1)).astype(images.dtype), images)


@method(*OPTIONS)
def ablation_cam(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Ablation-CAM: a layer's channels, each weighted by how much the score falls when the channel is zero.

    ``L = relu(sum_k w_k A_k)``, ``w_k = (s - s without channel k) / |s|``. Desai and Ramaswamy, "Ablation-CAM: Visual
    Explanations for Deep Convolutional Network via Gradient-free Localization", WACV 2020
    (doi:10.1109/WACV45572.2020.9093360). Misleads: two channels that each suffice get nothing.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole network.
        layer: as in :func:`grad_cam`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        A map of the shape of ``images``, zero or positive.

    Raises:
        FaceflaxError: as in :func:`grad_cam`.
    """
    _check_places(model, variables, images, layer)
    network = inside(model, variables, images, target, layer)
    sources = network.sources(images)
    activations = network.layer(sources)
    whole = network.score(images, network.unmoved)

    def fall(k: Array) -> Float[Array, " batch"]:
        gone = network.channels(lambda made: jnp.zeros_like(made).at[..., k].set(1))
        shifts = jax.tree.map(lambda source, out: jnp.where(out != 0, -source, 0), sources, gone)
        return whole - network.score(images, shifts)

    falls = every(fall, activations.shape[-1], images.shape[0], internal_batch_size, progress)
    weights = falls / jnp.where(whole == 0, 1, jnp.abs(whole))[None]
    return _enlarged(jax.nn.relu((weights.T[:, None, None] * activations).sum(-1)), images)


Maps = Float[Array, "batch rows columns channels"]


def _activations_and_gradients(
    model: Model, variables: Any, images: Images, target: Any, layer: str
) -> tuple[Maps, Maps]:
    """A layer's activations, and the gradient of each image's score by them."""
    _check_places(model, variables, images, layer)
    graph = trace(model, variables, images)
    place = graph.place(layer, target.layer)

    def score(shifts: dict[Slot, Array]) -> tuple[Float[Array, ""], dict[Slot, Array]]:
        values = graph.run(shifts=shifts)
        return target.of(*graph.answer(values)).sum(), values

    gradients, values = jax.grad(score, has_aux=True)(place.unmoved)
    return values[place.layer], place.viewed(gradients, values)


def _check_places(model: Model, variables: Any, images: Images, layer: str) -> None:
    shape = checked_layer(layer, answer_shapes(model, variables, images)[1])
    if len(shape.shape) != 4:
        raise FaceflaxError(
            "layer", layer, f"{{}} has shape {shape.shape}", "a map needs [batch, height, width, channels]"
        )


def _enlarged(cam: Float[Array, "batch rows columns"], images: Images) -> Images:
    cam = jax.image.resize(cam, images.shape[:3], "linear")
    return jnp.broadcast_to(cam[..., None], images.shape)
