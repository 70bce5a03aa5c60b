"""How programs are compiled: the same numbers, with every loop's convolutions in the layout that is fast there."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from interpret import compiling
from interpret.compiling import _is_slow, compiled

LAYOUTS = [
    *itertools.product(("NHWC", "NCHW", "HWNC"), ("HWIO", "OIHW", "HWOI"), ("NHWC", "NCHW")),
    ("NWC", "WIO", "NCW"),
    ("NCDHW", "OIDHW", "NCDHW"),
]
SIZES = {"N": 2, "C": 6, "I": 3, "O": 4, "H": 7, "W": 5, "D": 6}


def convolution(layout: tuple[str, str, str]):
    """A strided, dilated convolution in two groups, of float64 arrays."""
    x, kernel = (np.random.default_rng(i).normal(size=[SIZES[c] for c in layout[i]]) for i in (0, 1))
    kernel = kernel[tuple(slice(0, 3) if c in "HWD" else slice(None) for c in layout[1])]
    spatial = len(layout[0]) - 2

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (2, *[1] * (spatial - 1)),
            [(1, 2)] * spatial,
            lhs_dilation=(*[1] * (spatial - 1), 2),
            rhs_dilation=(1,) * spatial,
            dimension_numbers=layout,
            feature_group_count=2,
        )

    return convolve, jnp.asarray(x), jnp.asarray(kernel)


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_every_layout_gives_the_same_numbers_in_loops_and_their_gradients(layout):
    with jax.enable_x64(True):
        convolve, x, kernel = convolution(layout)

        def summed(x, kernel):
            def round_(total, factor):
                energy = lambda x: (convolve(x * factor, kernel) ** 2).sum()  # noqa: E731
                return total + jax.grad(energy)(x), energy(x)

            return lax.scan(round_, jnp.zeros_like(x), jnp.array([0.5, 1.0, 2.0]))

        for ours, plain in zip(compiled(summed)(x, kernel), jax.jit(summed)(x, kernel), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12)
        assert not _is_slow(jax.make_jaxpr(compiled(summed))(x, kernel).jaxpr, in_loop=False)
        assert _is_slow(jax.make_jaxpr(summed)(x, kernel).jaxpr, in_loop=False)


def test_while_cond_and_checkpoint_are_looked_into():
    with jax.enable_x64(True):
        convolve, x, kernel = convolution(("NCHW", "OIHW", "NCHW"))

        def answer(x, kernel):
            def step(state):
                i, total = state
                once = jax.checkpoint(lambda x: convolve(x, kernel).sum())
                more = lax.cond(i > 1, lambda: once(x + i), lambda: jax.jit(once)(x - i))
                return i + 1, total + more

            return lax.while_loop(lambda state: state[0] < 4, step, (0, 0.0))[1]

        np.testing.assert_allclose(compiled(answer)(x, kernel), jax.jit(answer)(x, kernel), rtol=1e-12)
        assert not _is_slow(jax.make_jaxpr(compiled(answer))(x, kernel).jaxpr, in_loop=False)


def test_it_composes_with_the_transformations_of_jax():
    def function(x, times):
        return lax.scan(lambda total, x: (total + jnp.sin(x) ** times, None), 0.0, x)[0]

    ours = compiled(function, static=("times",))
    x = jnp.linspace(0, 1, 4)
    expected = function(x, 3)
    np.testing.assert_allclose(ours(x, times=3), expected, rtol=1e-6)
    np.testing.assert_allclose(ours(x, 3), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: ours(x, 3))(), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda x: ours(x, 3))(jnp.stack([x, x])), [expected, expected], rtol=1e-6)
    plain = jax.grad(lambda x: function(x, 3))(x)
    np.testing.assert_allclose(jax.grad(lambda x: ours(x, 3))(x), plain, rtol=1e-5)
    tangents = jax.jvp(lambda x: ours(x, 3), (x,), (jnp.ones(4),))[1]
    np.testing.assert_allclose(tangents, plain.sum(), rtol=1e-5)
    np.testing.assert_allclose(
        jax.hessian(lambda x: ours(x, 3))(x), jax.hessian(lambda x: function(x, 3))(x), rtol=1e-5, atol=1e-6
    )


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "_OPTIONS", {"xla_no_such_option": True})
    compiling._known.cache_clear()
    assert compiled(lambda x: 2 * x)(jnp.ones(2)).tolist() == [2, 2]
    assert not compiling._known()
    compiling._known.cache_clear()


def test_a_compiled_function_is_taken_into_programs_of_the_user():
    double = compiled(lambda x, times: x * times, static=("times",))
    x = jnp.arange(3.0)
    assert jax.jit(lambda: double(x, times=3))().tolist() == [0, 3, 6]  # no argument of it is traced
    assert jax.jit(lambda x: double(x, times=3))(x).tolist() == jax.vmap(lambda x: double(x, times=3))(x).tolist()
    assert jax.grad(lambda x: double(x, times=3).sum())(x).tolist() == [3, 3, 3]
