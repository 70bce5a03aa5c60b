"""Layers by the names that a network gives its parts for JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret.scopes import with_layers


def scoped(variables, images):
    with jax.named_scope("block"):
        with jax.named_scope("conv"):
            first = jnp.einsum("bhwc,cd->bhwd", images, variables["first"])
        first = jax.nn.relu(first)
    with jax.named_scope("head"):
        constant = variables["last"] * 2  # does not depend on the images
        return first.mean((1, 2)) @ constant


@pytest.fixture
def network():
    generator = np.random.default_rng(0)
    variables = {
        "first": jnp.asarray(generator.normal(size=(3, 4))),
        "last": jnp.asarray(generator.normal(size=(4, 2))),
    }
    return variables, jnp.asarray(generator.normal(size=(2, 5, 6, 3)), jnp.float32)


def test_layers_are_what_is_computed_in_scopes(network):
    variables, images = network
    answer, layers = jax.jit(lambda v, x: with_layers(scoped, v, x))(variables, images)
    np.testing.assert_allclose(answer, scoped(variables, images), rtol=1e-6)
    conv = jnp.einsum("bhwc,cd->bhwd", images, variables["first"])
    np.testing.assert_allclose(layers["block/conv"], conv, rtol=1e-6)
    np.testing.assert_allclose(layers["block"], jax.nn.relu(conv), rtol=1e-6)
    np.testing.assert_allclose(layers["head"], answer, rtol=1e-6)


def test_a_class_activation_map_by_a_scope_is_that_of_the_returned_feature(network):
    variables, images = network

    def returning(variables, images):
        first = jax.nn.relu(jnp.einsum("bhwc,cd->bhwd", images, variables["first"]))
        return first.mean((1, 2)) @ (variables["last"] * 2), {"hidden": first}

    ours = interpret.grad_cam(*interpret.wrap(scoped, variables), images, 1, layer="block")
    theirs = interpret.grad_cam(*interpret.wrap(returning, variables), images, 1, layer="hidden")
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    neuron = interpret.Neuron("block/conv", 2, 3, 1)
    expected = jnp.zeros_like(images).at[:, 2, 3].set(variables["first"][:, 1])
    np.testing.assert_allclose(
        interpret.gradient(*interpret.wrap(scoped, variables), images, neuron), expected, rtol=1e-6
    )


def test_calls_are_numbered_and_functions_of_one_image_have_layers():
    def network(image):
        for factor in (2.0, 3.0):
            with jax.named_scope("times"):
                image = jax.jit(jnp.multiply)(image, factor)
            image = image + 1
        return image.mean((1, 2))

    images = jnp.ones((3, 2, 4, 4))
    _, layers = with_layers(jax.vmap(network), images)
    assert {name: float(layer.mean()) for name, layer in layers.items()} == {"times/0": 2, "times/1": 9, "times": 9}
    model, variables = interpret.wrap(network, per_image=True, channels_first=True)
    cam = interpret.grad_cam(model, variables, images.transpose(0, 2, 3, 1), 0, layer="times/0", enlarge=False)
    assert cam.shape == (3, 4, 4, 1)


def test_derivatives_and_loops_are_left_as_they_are():
    def network(images):
        with jax.named_scope("loop"):
            looped = jax.lax.fori_loop(0, 3, lambda i, x: x + jax.nn.relu(x), images)
        return looped.sum((1, 2))

    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 3, 2)), jnp.float32)
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(
            transform(lambda x: with_layers(network, x)[0])(images), transform(network)(images), rtol=1e-6
        )
    assert list(with_layers(network, images)[1]) == ["loop"]


def test_without_names_it_is_said_how_to_give_them():
    model, variables = interpret.wrap(lambda images: images.mean((1, 2)))
    with pytest.raises(
        FaceflaxError, match="layer: there is no 'conv': the network names no layers; return them beside"
    ):
        interpret.grad_cam(model, variables, jnp.ones((1, 4, 4, 3)), 0, layer="conv")
