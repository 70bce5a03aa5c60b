"""What the scaling experiment counts and estimates; its trainings are in tests/training/test_devices.py."""

import numpy as np
import pytest

from experiments.scaling import Exchange, Options, collectives, estimate, exchanged, main
from faceflax.errors import FaceflaxError


def test_collectives_are_counted_by_kind_in_a_programs_text():
    program = """
      %a = (f32[2,3]{1,0}, f32[]) all-reduce(%b, %c), channel_id=1, to_apply=%add
      %d = bf16[8]{0} all-gather(%e), dimensions={0}
      %f = f32[4]{0} all-reduce-start(%g), to_apply=%add
      %h = f32[4]{0} all-reduce-done(%f)
      %i = f32[100]{0} add(%j, %k)
    """
    assert collectives(program) == Exchange({"all-reduce": 28 + 16, "all-gather": 16}, 2)


def test_what_is_exchanged_is_a_number_a_parameter_three_a_channel_and_two():
    statistics = {"bn": {"mean": np.zeros(4), "var": np.ones(4)}}
    assert exchanged({"params": {"kernel": np.zeros((3, 4))}, "batch_stats": statistics}) == 4 * (12 + 3 * 4 + 2)


def test_the_estimate_is_the_roofline_and_a_ring_over_the_slowest_connection():
    options = Options(at_once=10, flops=100.0, memory=1000.0, near=50.0, far=5.0, machine=4, latency=0.25)
    alone = 10 * 2.0  # 200 operations at 100 a second outlast 1000 bytes at 1000
    given = options, 200.0, 1000.0, 60, 3
    assert estimate(*given, 1) == pytest.approx(alone)
    assert estimate(*given, 4) == pytest.approx(alone + 2 * 3 / 4 * 60 / 50 + 3 * 0.25)
    assert estimate(*given, 8) == pytest.approx(alone + 2 * 7 / 8 * 60 / 5 + 3 * 0.25)
    assert estimate(options, 200.0, 4000.0, 60, 3, 1) == pytest.approx(10 * 4.0)  # now memory does


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": (1,)}, "devices: '1' are not numbers of which one is above 1; give such as 1 8"),
        ({"devices": (0, 8)}, "devices: '0 8' are not numbers"),
        ({"steps": 0}, "steps: 0 is too small; give 1 or more"),
        ({"arch": "face_detector"}, "arch: 'face_detector' is not a network that labels faces"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(FaceflaxError, match=message):
        main(Options(**changes))
