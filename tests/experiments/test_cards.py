"""Model cards: every number in them is one that was measured, and only measurements of the same weights count."""

import json

import numpy as np
import pytest

from experiments.tools import cards
from faceflax import EMOTIONS, GENDERS, FaceflaxError, list_weights, weights_info
from faceflax.evaluation import Share, calibrate, evaluate, group_shares, report
from faceflax.models import DETECTORS
from faceflax.training.config import TrainConfig


def measured(names, groups=(), extra=()):
    """What scripts/evaluate.py --report writes, of random predictions."""
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(len(names), size=400), generator.normal(size=(400, len(names)))
    right = logits.argmax(1) == labels
    kinds = {"class": (names, labels), **{kind: (of, generator.integers(len(of), size=400)) for kind, of in groups}}
    return report.metrics(
        report.Report(
            title="",
            remarks=(),
            accuracy={"single crop": Share.of(right), "flip averaged": Share(200, 400)} | dict(extra),
            evaluation=evaluate(logits, labels, names),
            groups={kind: group_shares(right, *of) for kind, of in kinds.items()},
            calibration={"softmax": calibrate(logits, labels), "with": calibrate(logits, labels, 2.0)},
            mistakes=(),
            facts={},
        )
    )


def test_a_card_states_what_was_measured():
    races = (("race", ("Black", "White")),)
    numbers = measured(GENDERS, races, {"detector: face found": Share(300, 400)}.items())
    info = weights_info("mini_xception-fairface")
    text = "\n".join(
        cards.card(info, "52,658 parameters, float16", measured(GENDERS), numbers, "experiments/some.py", TrainConfig())
    )
    right, count = numbers["accuracy"]["single crop"]["right"], 400
    low, high = Share(right, count).interval
    single = f"{right / count:.2%} [{100 * low:.2f}, {100 * high:.2f}]"
    assert f"| single crop | {single} | {single} |" in text
    assert "| face found | 75.00% [" in text
    groups = numbers["groups"]["race"]
    worst = min(groups, key=lambda race: groups[race]["share"])
    assert f"Worst: {worst}, {100 * (right / count - groups[worst]['share']):.1f} percentage points below" in text
    assert "52,658 parameters, float16" in text
    assert "`experiments/some.py`" in text
    assert "--without" not in text
    assert "they are not a person's gender" in text
    assert "distilled from" not in text

    share = {"share": 0.5, "interval": (0.4, 0.6)}
    pair = {"clean": share, "corrupted": share}
    row = {"common": True, "right": share, "found_again": share, "label_changes": share}
    found = {
        "clean": share,
        "mean_corruption_accuracy": 0.625,
        "corruptions": {"blur": row},
        "label_changes": {"mirrored": share},
        "expected_calibration_error": {"clean": 0.01, "corrupted": 0.02},
        "groups": {"race": {"Black": pair}},
    }
    numbers |= {"detector": "faceflax", "robustness": found}
    text = "\n".join(cards.card(info, "1", measured(GENDERS), numbers, "experiments/some.py", TrainConfig()))
    assert "--detector faceflax --robustness`" in text
    assert "| blur* | 50.00% [40.00, 60.00] | 50.0% |" in text
    assert "Mean corruption accuracy (of those with a star): 62.50%." in text
    assert "| Black | 50.00% [40.00, 60.00] | 50.00% [40.00, 60.00] |" in text

    without = {"single crop, without 100 rows": Share(150, 300)}.items()
    distilled = TrainConfig(teachers=("vgg-fer2013", "runs/mine/weights.safetensors"), teacher_weight=0.75)
    lines = cards.card(
        weights_info("mini_xception-fer2013"),
        "1 parameter",
        measured(EMOTIONS),
        measured(EMOTIONS, (), without),
        "experiments/some.py",
        distilled,
    )
    text = "\n".join(lines)
    assert (
        "| distilled from | `vgg-fer2013`, `mine`, which the same experiment makes, "
        "whose predictions are 75% of each target |" in text
    )
    assert "| single crop, without 100 rows |  | 50.00% [" in text
    assert "--without experiments/near_duplicates_fer2013.json" in text
    assert "AI Act, Article 5" in text


def test_measurements_of_other_weights_are_refused(tmp_path):
    name = "mini_xception-fer2013"
    info = weights_info(name)
    good = {"sha256": info.sha256, "dataset": info.dataset, "flip": False}
    for wrong in ({"sha256": "0" * 64}, {"dataset": "ferplus"}, {"flip": True}):
        file = tmp_path / "metrics.json"
        file.write_text(json.dumps(good | wrong))
        with pytest.raises(FaceflaxError, match=r"validation: .* evaluate these weights again"):
            cards.main(cards.Options(name, validation=file, test=file))
    with pytest.raises(FaceflaxError, match=r"validation: cannot read .*nothing"):
        cards.main(cards.Options(name, validation=tmp_path / "nothing", test=file))
    file.write_text(json.dumps(good))
    for wrong in ("experiments/none.py", "experiments/tools/cards.py", "none"):
        with pytest.raises(FaceflaxError, match=rf"made_by: '{wrong}' is no experiment with a CONFIG"):
            cards.main(cards.Options(name, validation=file, test=file, made_by=wrong))
    with pytest.raises(FaceflaxError, match="name: unknown 'none'"):
        cards.main(cards.Options("none", validation=file, test=file))


@pytest.mark.parametrize("name", [name for name in list_weights() if weights_info(name).arch not in DETECTORS])
def test_shipped_cards_state_the_record_s_accuracy(name):
    info = weights_info(name)
    text = (cards.folder() / f"{name}.md").read_text()
    for split in ("validation", "test"):
        assert f"{info.accuracy[split]:.2%}" in text
    assert f"{info.temperature:.3f}" in text
