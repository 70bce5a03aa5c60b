"""What the activations of a layer contribute: integrated gradients, conductance and influence inside the network.

These return an attribution of the layer's own shape, not of the images'. Of a single neuron with respect to the images,
:func:`~interpret.gradients.integrated_gradients` with a :class:`~interpret.targets.Neuron` as its target tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interpret.attribution import apply, at_least, checked_baseline, method
from interpret.copies import OPTIONS, Progress, total
from interpret.graph import Graph, Images, Model, Place, Slot, trace
from interpret.targets import Scores, Target

Activations = Float[Array, "batch ..."]


class Inside:
    """A layer of a traced model, with what is above it and below.

    Args:
        graph: the model.
        place: of the layer.
        target: a :class:`~interpret.targets.Score`, chosen for good.
    """

    def __init__(self, graph: Graph, place: Place, target: Any) -> None:
        self._graph, self._place, self._target = graph, place, target

    def sources(self, images: Images) -> dict[Slot, Array]:
        """The values on the way that the layer is made of."""
        values = self._graph.of(images).run()
        return {slot: values[slot] for slot in self._place.sources}

    def layer(self, sources: dict[Slot, Array]) -> Activations:
        """The layer, or what is linear in it, of its sources."""
        return self._place.viewed(sources, self._graph.run())

    def score(self, images: Images, shifts: dict[Slot, Array]) -> Scores:
        """Each image's score with the sources shifted."""
        graph = self._graph.of(images)
        return self._target.of(*graph.answer(graph.run(shifts=shifts)))

    def gradient(self, images: Images, shifts: dict[Slot, Array]) -> dict[Slot, Array]:
        """Its gradient by the sources."""
        return jax.grad(lambda shifts: self.score(images, shifts).sum())(shifts)

    @property
    def unmoved(self) -> dict[Slot, Array]:
        """Shifts of nothing."""
        return self._place.unmoved

    def channels(self, mask: Callable[[Array], Array]) -> dict[Slot, Array]:
        """Which elements of the sources become those of the layer that ``mask``, a function of the layer, marks."""
        values = self._graph.run()
        layer, back = jax.vjp(lambda sources: self._place.viewed(sources, values), self.unmoved)
        return back(mask(layer))[0]


def inside(model: Model, variables: Any, images: Images, target: Any, layer: str) -> Inside:
    """Finds a layer that leads to a score.

    Raises:
        FaceflaxError: unknown layer, or one that does not lead there.
    """
    graph = trace(model, variables, images)
    return Inside(graph, graph.place(layer, target.layer), target.fixed(*apply(model, variables, images)))


@method("steps", *OPTIONS)
def layer_integrated_gradients(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
    steps: int = 50,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """Integrated gradients of a layer: its activations change straight from the baseline's to the image's.

    ``A = (y(x) - y(b)) * integral from 0 to 1 of (d s / d y)(y(b) + t (y(x) - y(b))) dt``, with ``y`` the layer, as the
    mean over the middles of equal steps. Where the score depends on the images through this layer alone, its sum is
    ``s(x) - s(b)``. Sundararajan, Taly and Yan, ICML 2017 (arXiv:1703.01365), within the network. Misleads: activations
    half way between two images' need not occur for any image.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: a name in ``features`` that leads to the score, or is a copy of what does; of any shape.
        baseline: as in :func:`~interpret.gradients.integrated_gradients`.
        steps: as in :func:`~interpret.gradients.integrated_gradients`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the layer's shape.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.integrated_gradients`, or a layer that does not lead to the
            score.

    Example:
        >>> import flax.linen as nn
        >>> class Net(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         hidden = nn.relu(images) ** 2
        ...         return hidden.sum((1, 2)), {"hidden": hidden}
        >>> images = jnp.array([1.0, -1.0, 3.0]).reshape(1, 1, 3, 1)
        >>> print(layer_integrated_gradients(Net(), {}, images, 0, layer="hidden").ravel())
        [1. 0. 9.]
    """
    at_least("steps", steps, 1)
    network = inside(model, variables, images, target, layer)
    here = network.sources(images)
    there = network.sources(checked_baseline(baseline, images))
    way = jax.tree.map(jnp.subtract, here, there)

    def on_the_way(i: Array) -> dict[Slot, Array]:
        left = 1 - (i + 0.5) / steps
        return network.gradient(images, jax.tree.map(lambda w: -left.astype(w.dtype) * w, way))

    sums = total(on_the_way, steps, images.shape[0], internal_batch_size, progress)
    return network.layer(jax.tree.map(lambda w, g: (w * g / steps).astype(w.dtype), way, sums))


@method("steps", *OPTIONS)
def layer_conductance(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
    steps: int = 50,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """Conductance: what of an image's integrated gradients flows through each activation of a layer.

    ``A = integral from 0 to 1 of (d s / d y) (d y / d t) dt`` along ``x(t) = b + t (x - b)``, with ``y`` the layer, as
    the mean over the middles of equal steps. Where the score depends on the images through this layer alone its sum is
    ``s(x) - s(b)``. Dhamdhere, Sundararajan and Yan, "How Important Is a Neuron?", ICLR 2019 (arXiv:1805.12233).
    Misleads: two activations that cancel can both be large.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`layer_integrated_gradients`.
        baseline: as in :func:`~interpret.gradients.integrated_gradients`.
        steps: as in :func:`~interpret.gradients.integrated_gradients`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the layer's shape.

    Raises:
        FaceflaxError: as in :func:`layer_integrated_gradients`.
    """
    at_least("steps", steps, 1)
    network = inside(model, variables, images, target, layer)
    start = checked_baseline(baseline, images)

    def on_the_way(i: Array) -> dict[Slot, Array]:
        place = start + ((i + 0.5) / steps).astype(images.dtype) * (images - start)
        _, speed = jax.jvp(network.sources, (place,), (images - start,))
        return jax.tree.map(jnp.multiply, network.gradient(place, network.unmoved), speed)

    sums = total(on_the_way, steps, images.shape[0], internal_batch_size, progress)
    return network.layer(jax.tree.map(lambda g, zero: (g / steps).astype(zero.dtype), sums, network.unmoved))


@method("steps", *OPTIONS)
def internal_influence(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
    steps: int = 50,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """Internal influence: a layer's gradient, averaged on the way from a baseline to the image.

    ``A = integral from 0 to 1 of (d s / d y)(b + t (x - b)) dt``, with ``y`` the layer, as the mean over the middles of
    equal steps. Leino, Sen, Datta, Fredrikson and Li, "Influence-Directed Explanations for Deep Convolutional
    Networks", ITC 2018 (arXiv:1802.03788). Misleads: it says what a change would do, also of activations that are zero.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`layer_integrated_gradients`.
        baseline: as in :func:`~interpret.gradients.integrated_gradients`.
        steps: as in :func:`~interpret.gradients.integrated_gradients`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the layer's shape.

    Raises:
        FaceflaxError: as in :func:`layer_integrated_gradients`.
    """
    at_least("steps", steps, 1)
    network = inside(model, variables, images, target, layer)
    start = checked_baseline(baseline, images)

    def on_the_way(i: Array) -> dict[Slot, Array]:
        place = start + ((i + 0.5) / steps).astype(images.dtype) * (images - start)
        return network.gradient(place, network.unmoved)

    sums = total(on_the_way, steps, images.shape[0], internal_batch_size, progress)
    return network.layer(jax.tree.map(lambda g, zero: (g / steps).astype(zero.dtype), sums, network.unmoved))
