"""What plain JAX can reach on one CPU core: mini_xception's forward pass in a dozen algebraic forms.

Every form computes the same logits (checked to 1e-4) from the same folded program. The quickest is kept as
:func:`faceflax.inference.program.evaluate`; the C++ kernels of :mod:`faceflax.native` took over where it stays behind.

Command::

    python -m experiments.xla_forms

Result (one core of an Intel Xeon with AVX-512, medians): ``docs/engine.md``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from faceflax.cli import run


@dataclass(frozen=True)
class Options:
    """Time mini_xception's forward pass in every form tried, on one core, in turn."""

    repeats: int = 20
    """Timings of each form."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Images a call."""


def main(options: Options) -> None:
    """Prints a row for each form: milliseconds at each batch size."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import jax
    import numpy as np

    import faceflax
    from faceflax import native
    from faceflax.inference import program

    folded = program.fold(*faceflax.load("mini_xception-fer2013"))
    assert folded is not None
    candidates: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        name: (partial(forward, folded, **form), {}) for name, form in forms().items()
    }
    best = partial(forward, folded, **forms()["first stem as nine multiply-adds"])
    for name, value in XLA_OPTIONS.items():
        candidates[f"the same, {name}={value}"] = (best, {name: value})
    candidates["the same, in calls of 8 images"] = (partial(in_parts, best), {})
    network = program.network(folded)
    model, variables = faceflax.load("mini_xception-fer2013")
    seconds: dict[str, list[float]] = {}
    for batch in options.batches:
        images = np.random.default_rng(0).uniform(-1, 1, (batch, 64, 64, 1)).astype(np.float32)
        expected = np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False)[0])(images))
        compiled: dict[str, Callable[..., Any]] = {}
        for name, (function, flags) in candidates.items():
            compiled[name] = jax.jit(function).lower(images).compile(compiler_options=flags)
        if network is not None:
            compiled["C++ kernels"] = lambda images: native.run([(network, images)])[0]
        for call in compiled.values():
            np.testing.assert_allclose(call(images), expected, rtol=0, atol=1e-4)
        times: dict[str, list[float]] = {name: [] for name in compiled}
        for _ in range(options.repeats):
            for name, call in compiled.items():
                start = time.perf_counter()
                np.asarray(call(images))
                times[name].append(time.perf_counter() - start)
        for name, each in times.items():
            seconds.setdefault(name, []).append(statistics.median(each))
    print(f"{'milliseconds at batch':64}" + "".join(f"{batch:9d}" for batch in options.batches))
    for name, medians in seconds.items():
        print(f"{name:64}" + "".join(f"{1e3 * value:9.3f}" for value in medians))


XLA_OPTIONS: dict[str, Any] = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_use_xnnpack": True,
    "xla_cpu_use_onednn": True,
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
}


def forms() -> dict[str, dict[str, Any]]:
    """Each form by what it changes; all start from nine shifted multiply-adds for the depthwise convolutions."""
    settled = {"late_bias": True, "early_mean": True}
    return {
        "grouped convolutions and reduce_window": {"depthwise": grouped, "pool": window_pool},
        "depthwise as nine shifted multiply-adds, pooling by comparisons": {},
        "and the mean over pixels before the last convolution": {"early_mean": True},
        "and the bias after the pooling": settled,
        "depthwise in lanes of row x channel": settled | {"depthwise": lanes},
        "depthwise as rows, then columns": settled | {"depthwise": rows_first},
        "pooling by strided slices": settled | {"pool": sliced_pool},
        "both stems as products of patches": settled | {"stem1": patches, "stem2": patches},
        "second stem alone as a product of patches": settled | {"stem1": shifted, "stem2": patches},
        "first stem as nine multiply-adds": settled | {"stem1": shifted},
    }


def in_parts(function: Callable[[Any], Any], images: Any) -> Any:
    """``function`` of 8 images at a time."""
    import jax

    if len(images) <= 8:
        return function(images)
    return jax.lax.map(function, images.reshape(-1, 8, *images.shape[1:])).reshape(len(images), -1)


def forward(
    folded: Any,
    images: Any,
    depthwise: Callable[..., Any] | None = None,
    pool: Callable[..., Any] | None = None,
    stem1: Callable[..., Any] | None = None,
    stem2: Callable[..., Any] | None = None,
    late_bias: bool = False,
    early_mean: bool = False,
) -> Any:
    """Logits of a folded mini_xception."""
    import flax.linen as nn
    import jax.numpy as jnp

    from faceflax.models import blocks

    depthwise, pool = depthwise or blocks._depthwise_shifted, pool or blocks._max_pool_axes
    stems = iter((stem1 or blocks._conv_plain, stem2 or blocks._conv_plain))
    x: Any = images
    late: Any = 0.0
    shortcut: Any = None
    for layer in folded:
        kernel, bias = (layer.weights[0], layer.weights[-1]) if layer.weights else (jnp.zeros(()), jnp.zeros(()))
        match layer.kind:
            case "convolution":
                x = next(stems)(x, jnp.asarray(kernel), 1, "VALID") + bias
            case "shortcut":
                shortcut = x[:, ::2, ::2] @ kernel + bias
            case "separable":
                x = depthwise(x, jnp.asarray(kernel)) @ layer.weights[1]
                late = bias if late_bias and not layer.relu else 0.0
                x = x if late_bias and not layer.relu else x + bias
            case "max_pool":
                x = pool(x) + (shortcut + late)
            case "head" if early_mean:
                height, width = x.shape[1:3]
                means = [view.mean((1, 2)) for view in blocks._windows(blocks._pad1(x), height, width)]
                x = jnp.concatenate(means, -1) @ kernel.reshape(-1, kernel.shape[-1]) + bias
            case "head":
                x = (blocks._conv_plain(x, kernel, 1, "SAME") + bias).mean((1, 2))
        x = nn.relu(x) if layer.relu else x
    return x


def grouped(x: Any, kernel: Any) -> Any:
    """XLA's own depthwise convolution."""
    from faceflax.models import blocks

    return blocks._depthwise_plain(x, kernel)


def window_pool(x: Any) -> Any:
    """XLA's own max-pooling."""
    from faceflax.models import blocks

    return blocks._max_pool_plain(x)


def lanes(x: Any, kernel: Any) -> Any:
    """Nine multiply-adds of rows whose pixels and channels are one axis."""
    import jax.numpy as jnp

    batch, height, width, channels = x.shape
    flat = jnp.pad(x.reshape(batch, height, width * channels), ((0, 0), (1, 1), (channels, channels)))
    taps = [
        flat[:, i : i + height, j * channels : (j + width) * channels] * jnp.tile(kernel[i, j, 0], width)
        for i in range(3)
        for j in range(3)
    ]
    return reduce(jnp.add, taps).reshape(x.shape)


def rows_first(x: Any, kernel: Any) -> Any:
    """Three filters along the rows, then their sum down the columns."""
    import jax.numpy as jnp

    height, width = x.shape[1:3]
    framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    along = [reduce(jnp.add, [framed[:, :, j : j + width] * kernel[i, j, 0] for j in range(3)]) for i in range(3)]
    return reduce(jnp.add, [along[i][:, i : i + height] for i in range(3)])


def sliced_pool(x: Any) -> Any:
    """The maximum of nine strided slices."""
    import jax.numpy as jnp

    out = [-(-side // 2) for side in x.shape[1:3]]
    gaps = [max((n - 1) * 2 + 3 - side, 0) for n, side in zip(out, x.shape[1:3], strict=True)]
    pads = [(0, 0), *((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)]
    framed = jnp.pad(x, pads, constant_values=-jnp.inf)
    views = [framed[:, i : i + 2 * out[0] - 1 : 2, j : j + 2 * out[1] - 1 : 2] for i in range(3) for j in range(3)]
    return reduce(jnp.maximum, views)


def patches(x: Any, kernel: Any, *_: Any) -> Any:
    """A stem as one matrix product of 3x3 patches."""
    import jax.numpy as jnp

    from faceflax.models import blocks

    views = blocks._windows(x, x.shape[1] - 2, x.shape[2] - 2)
    return jnp.concatenate(views, -1) @ kernel.reshape(-1, kernel.shape[-1])


def shifted(x: Any, kernel: Any, *_: Any) -> Any:
    """A stem of one channel as nine multiply-adds."""
    import jax.numpy as jnp

    from faceflax.models import blocks

    views = blocks._windows(x, x.shape[1] - 2, x.shape[2] - 2)
    return reduce(jnp.add, map(jnp.multiply, views, kernel.reshape(9, -1)))


if __name__ == "__main__":
    run(main, Options)
