import threading
import time
from itertools import pairwise

import pytest

from faceflax import pipeline as stages
from faceflax.pipeline import Ended, pipeline


def threads():
    return [thread for thread in threading.enumerate() if "guarded" in thread.name]


def test_every_item_passes_all_stages_in_order():
    stages = [lambda x: x + 1, lambda x: 10 * x, str]
    with pipeline(range(200), stages) as through:
        assert list(through) == [str(10 * (x + 1)) for x in range(200)]
    assert through.dropped == 0


def test_stages_overlap():
    """Two stages that wait for each other can only go on if both are at work at the same time."""
    meeting = threading.Barrier(2, timeout=20)

    def first(x):
        if x > 0:
            meeting.wait()
        return x

    def second(x):
        if x < 3:
            meeting.wait()
        return x

    with pipeline(range(4), [first, second]) as through:
        assert list(through) == [0, 1, 2, 3]


@pytest.mark.parametrize("where", ["source", 0, 1])
def test_error_comes_out_after_all_that_was_done_before_it_and_nothing_hangs(where):
    closed = []

    def items():
        try:
            for x in range(1000):
                if where == "source" and x == 5:
                    raise OSError("gone")
                yield x
        finally:
            closed.append(threading.current_thread())

    def stage(number):
        def work(x):
            if where == number and x == 5:
                raise OSError("gone")
            return x

        return work

    with pipeline(items(), [stage(0), stage(1)]) as through:
        assert [through.get() for _ in range(5)] == list(range(5))
        with pytest.raises(OSError, match="gone"):
            through.get()
    assert len(closed) == 1
    assert threads() == []


def test_leaving_early_closes_the_source_and_ends_the_threads():
    closed = []

    def items():
        try:
            x = 0
            while True:
                yield x
                x += 1
        finally:
            closed.append(True)

    with pipeline(items(), [lambda x: x, lambda x: x]) as through:
        assert [through.get(), through.get()] == [0, 1]
    assert closed == [True]
    assert threads() == []


def test_a_stage_may_end_it():
    def work(x):
        if x == 3:
            raise Ended
        return x

    with pipeline(range(100), [work]) as through:
        assert list(through) == [0, 1, 2]


def test_get_with_a_timeout_gives_nothing_while_there_is_nothing():
    go = threading.Event()

    def work(x):
        assert go.wait(20)
        return x

    with pipeline([1], [work]) as through:
        assert through.get(timeout=0.01) is None
        go.set()
        assert through.get() == 1
        with pytest.raises(Ended):
            through.get()


def test_a_slow_stage_drops_what_is_old_and_counts_it():
    """While the stage has a frame in hand, the camera gives ten more; the next one it gets is the newest."""
    number = [0]

    def camera():
        while number[0] < 60:
            number[0] += 1
            yield number[0]
            time.sleep(0.0005)

    def slow(x):
        while number[0] < min(60, x + 10):
            time.sleep(0.0005)
        return x

    with pipeline(camera(), [slow], capacity=1, drop=True) as through:
        taken = list(through)
    assert len(taken) + through.dropped == 60
    assert taken[-1] == 60
    assert all(after >= min(60, before + 9) for before, after in pairwise(taken))


def test_without_dropping_a_slow_stage_holds_the_source_up():
    read, done = [], []

    def items():
        for x in range(50):
            read.append(x)
            yield x

    def slow(x):
        assert len(read) - len(done) <= 5  # two waiting, one in each hand, one just read
        done.append(x)
        return x

    with pipeline(items(), [slow], capacity=2) as through:
        assert list(through) == list(range(50))


def test_a_source_that_hangs_does_not_hold_up_who_leaves(monkeypatch):
    monkeypatch.setattr(stages, "READER_SECONDS", 0.05)
    let_go = threading.Event()

    def camera():
        yield 1
        let_go.wait(60)

    with pipeline(camera(), [lambda x: x]) as through:
        assert through.get() == 1
    assert len(threads()) == 1  # the reader, still in its camera
    let_go.set()
    threads()[0].join(20)
    assert threads() == []
