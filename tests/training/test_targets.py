"""Targets and the loss against their formulas in float64; soft-label files that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from faceflax import FaceflaxError
from faceflax.training.targets import cross_entropy, disagreement, make_targets, read_soft_labels

LABELS = np.array([0, 0, 0, 0, 1, 1, 2])


def distributions(n=7, classes=3):
    return np.random.default_rng(0).dirichlet(np.ones(classes), n).astype(np.float32)


def test_targets_are_smoothed_hard_labels_beside_soft_ones():
    soft = distributions()
    targets = make_targets(LABELS, 3, smoothing=0.3, soft=soft, soft_weight=0.25)
    for i, label in enumerate(LABELS):
        for c in range(3):
            hard = 0.7 * (c == label) + 0.1
            assert targets[i, c] == pytest.approx(0.75 * hard + 0.25 * soft[i, c], abs=1e-6)
    np.testing.assert_array_equal(make_targets(LABELS, 3), np.eye(3)[LABELS])


def test_loss_is_its_formula():
    logits = np.random.default_rng(1).normal(size=(7, 3)) * 3
    targets = distributions()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -(targets * np.log(p)).sum() / 7
    loss = lambda x: cross_entropy(x, jnp.asarray(targets))  # noqa: E731
    assert float(loss(jnp.asarray(logits, jnp.float32))) == pytest.approx(expected, rel=1e-5)
    check_grads(loss, (jnp.asarray(logits, jnp.float32),), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_loss_and_slope_are_finite_where_the_network_is_certain():
    logits = jnp.array([[200.0, 0.0, 0.0], [0.0, -200.0, 0.0]])
    loss, slope = jax.value_and_grad(cross_entropy)(logits, jnp.eye(3)[:2])
    assert loss == pytest.approx((200 + np.log(2)) / 2, rel=1e-3)
    assert np.isfinite(slope).all()


def test_soft_labels_are_read_and_what_is_wrong_is_named(tmp_path):
    file = tmp_path / "soft.npy"
    np.save(file, distributions())
    np.testing.assert_array_equal(read_soft_labels(file, (7, 3)), distributions())
    with pytest.raises(FaceflaxError, match=r"soft_labels: .* holds float32 \(7, 3\), .* needs float32 \(8, 3\)"):
        read_soft_labels(file, (8, 3))
    np.save(file, distributions().astype(np.float64))
    with pytest.raises(FaceflaxError, match=r"soft_labels: .* holds float64"):
        read_soft_labels(file, (7, 3))
    for value in (np.nan, -0.5, 0.9):
        wrong = distributions()
        wrong[4] = value
        np.save(file, wrong)
        with pytest.raises(FaceflaxError, match=r"soft_labels: row 4 of .* not a distribution \(as are 1 rows"):
            read_soft_labels(file, (7, 3))
    file.write_text("a,b\n1,2\n")
    with pytest.raises(FaceflaxError, match="soft_labels: cannot read"):
        read_soft_labels(file, (7, 3))
    with pytest.raises(FaceflaxError, match="soft_labels: cannot read"):
        read_soft_labels(tmp_path / "none.npy", (7, 3))
    np.save(file, distributions())
    whole = file.read_bytes()
    for damaged in (
        b"PK\x03\x04" + whole,
        whole.replace(b"(7, 3)", b"(7, 3"),
        whole.replace(b"(7, 3)", b"(9**9,3)"),
        whole[:90],
    ):
        file.write_bytes(damaged)  # which NumPy takes for an archive, whose header is no Python, ...
        with pytest.raises(FaceflaxError, match=r"soft_labels: cannot read .* as an \.npy file"):
            read_soft_labels(file, (7, 3))


def test_disagreement_is_scipys_divergence_of_each_pair():
    logits = np.random.default_rng(3).normal(size=(10, 7)) * 4
    probabilities = softmax(logits, axis=1)
    expected = np.mean([jensenshannon(*probabilities[i : i + 2]) ** 2 for i in range(0, 10, 2)])
    assert float(disagreement(jnp.asarray(logits, jnp.float32))) == pytest.approx(expected, rel=1e-5)
    # Certain answers, equal or not, have a value and a slope.
    certain = jnp.array([[1e4, 0.0], [1e4, 0.0], [1e4, 0.0], [0.0, 1e4]])
    assert float(disagreement(certain)) == pytest.approx(np.log(2) / 2)
    assert np.isfinite(jax.grad(disagreement)(certain)).all()
    check_grads(disagreement, (jnp.asarray(logits, jnp.float32),), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
