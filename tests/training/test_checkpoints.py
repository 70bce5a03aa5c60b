"""Checkpoints that were damaged, cut off or have no room: never other weights in silence, never a raw error."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from faceflax import FaceflaxError
from faceflax.training.checkpoints import Checkpoints, Record
from faceflax.training.run import Begun
from faceflax.training.step import adam, create_state

DAMAGES = 616


def state_of(seed):
    random = np.random.default_rng(seed)
    params = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in (("a", (3, 4)), ("b", (5,)))}
    return create_state({"params": params, "batch_stats": {}}, adam(0.1))


def record(step, accuracies=(), begun=0):
    history = [{"validation_accuracy": accuracy} for accuracy in accuracies]
    best = int(np.argmax(accuracies)) + 1 if accuracies else None
    return Record(step, history, Begun(begun, {"loss": 0.1}), {"seed": 1}, ["a"], {"dataset": "x"}, best)


def save(folder, *records, keep=2):
    with Checkpoints(folder, keep) as checkpoints:
        for each in records:
            assert checkpoints.save(state_of(each.step), each)
        checkpoints.wait()
        return checkpoints.steps()


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_what_was_saved_comes_back_bit_for_bit_with_its_record(tmp_path):
    save(tmp_path, record(7, (0.5,), begun=3))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest() == record(7, (0.5,), begun=3)
        assert_same(checkpoints.restore(7, state_of(0)), state_of(7))


def test_the_newest_and_the_best_are_kept(tmp_path):
    records = [record(step, (0.1, 0.9, 0.5, 0.9, 0.4)[:step]) for step in range(1, 6)]
    assert save(tmp_path, *records) == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best().step == 2  # the first of equals
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2", "4", "5"]


def test_whatever_happens_to_the_newest_the_one_before_is_used(tmp_path, caplog):
    save(tmp_path, record(1), record(2))
    random = np.random.default_rng(24)
    newest = tmp_path / "2"
    whole = sorted(file for file in newest.rglob("*") if file.is_file())
    with Checkpoints(tmp_path) as checkpoints:
        for number in range(DAMAGES):
            file = whole[random.integers(len(whole))]
            content = file.read_bytes()
            kind = ("flip", "cut", "delete", "empty")[number % 4]
            if kind == "delete" or not content:
                file.unlink()
            elif kind == "flip":
                damaged = bytearray(content)
                damaged[random.integers(len(content))] ^= 1 << random.integers(8)
                file.write_bytes(damaged)
            else:
                file.write_bytes(content[: random.integers(len(content)) if kind == "cut" else 0])
            caplog.clear()
            assert checkpoints.newest() == record(1), (kind, file)
            assert "the checkpoint of step 2 is damaged and was set aside as" in caplog.text
            if number % 50 == 0:
                assert_same(checkpoints.restore(1, state_of(0)), state_of(1))
            (tmp_path / "2.damaged").rename(newest)
            file.write_bytes(content)
        caplog.clear()
        assert checkpoints.newest() == record(2)
        assert not caplog.text


def test_where_all_are_damaged_that_is_said(tmp_path):
    save(tmp_path, record(1), record(2))
    for step in (1, 2):
        (tmp_path / str(step) / "run.json").write_text("{")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FaceflaxError, match=r"damaged \(steps 1, 2\); start an"):
        checkpoints.newest()


def test_a_damaged_best_one_is_not_the_best_any_more(tmp_path, caplog):
    save(tmp_path, *(record(step, (0.9, 0.1, 0.2)[:step]) for step in (1, 2, 3)))
    shutil.rmtree(tmp_path / "1" / "state")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best().step == 3
    assert "the best epoch's checkpoint is damaged; the best whole one is of epoch 3" in caplog.text


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        state = state_of(0)
        broken = state.replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
        assert not checkpoints.save(broken, record(1))
        assert checkpoints.steps() == []


def test_another_network_is_refused(tmp_path):
    save(tmp_path, record(1))
    other = create_state({"params": {"a": jnp.zeros((3, 4))}, "batch_stats": {}}, adam(0.1))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FaceflaxError, match=r"another network or optimizer"):
        checkpoints.restore(1, other)


def test_without_room_the_one_before_stays_and_one_sentence_says_so(tmp_path):
    """A limit on the size of files stands for the full disk: both fail while the checkpoint is written."""
    folder = tmp_path / "run" / "checkpoints"
    save(folder, record(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(folder) as checkpoints:
        checkpoints.newest()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            checkpoints.save(state_of(2), record(2))
            with pytest.raises(FaceflaxError) as caught:
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(caught.value).startswith("output: cannot write the checkpoint of step 2 into ")
        assert " (the disk is full); " in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith("; make room, and resume from that of step 1")
        assert [entry.name for entry in folder.iterdir()] == ["1"]
        assert checkpoints.newest() == record(1)
