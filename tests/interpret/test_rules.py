import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from interpret.rules import deconvnet_relu, guided_relu

X = np.array([-2.0, -1.0, 0.0, 0.5, 3.0, -2.0, -1.0, 0.0, 0.5, 3.0], np.float32)
G = np.array([1.5, 0.0, 2.0, 4.0, 0.0, -1.5, -3.0, -2.0, -4.0, -0.5], np.float32)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(guided_relu, np.maximum(G, 0) * (X > 0)), (deconvnet_relu, np.maximum(G, 0))],
    ids=["guided", "deconvnet"],
)
def test_backward_is_the_closed_form(rule, expected):
    value, vjp = jax.vjp(rule, jnp.asarray(X))
    np.testing.assert_array_equal(value, np.maximum(X, 0))
    np.testing.assert_array_equal(vjp(jnp.asarray(G))[0], expected)


@pytest.mark.parametrize("rule", [guided_relu, deconvnet_relu])
def test_value_outside_differentiation_is_relu(rule):
    np.testing.assert_array_equal(jax.jit(jax.vmap(rule))(X.reshape(5, 2)), np.maximum(X, 0).reshape(5, 2))


@pytest.mark.parametrize(
    ("rule", "x"), [(guided_relu, X), (deconvnet_relu, np.abs(X) + 0.5)], ids=["guided", "deconvnet"]
)
def test_rules_are_the_true_gradient_where_they_should_be(rule, x):
    """By finite differences: above a rising function guided backprop is the gradient, and the deconvnet where x > 0."""
    with jax.enable_x64(True):
        away = jnp.asarray(np.where(x == 0, 0.7, x), jnp.float64)  # from the kink
        check_grads(lambda x: jnp.exp(rule(x)).sum(), (away,), order=1, modes=["rev"], rtol=1e-6)


def test_guided_rule_is_the_true_gradient_where_gradients_are_positive():
    true = jax.vjp(jax.nn.relu, jnp.asarray(X))[1](jnp.abs(G))[0]
    np.testing.assert_array_equal(jax.vjp(guided_relu, jnp.asarray(X))[1](jnp.abs(G))[0], true)
