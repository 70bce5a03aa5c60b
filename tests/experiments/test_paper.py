"""The study's claims: rules and intervals against arithmetic, kept work, and all of it once on synthetic faces."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from experiments.paper import CLAIMS, chaining, confusions, eyes, glasses, intervals, multilevel, report
from experiments.paper.__main__ import Options, main
from experiments.paper.record import Number, Record, Result, Table, above, below, equal
from experiments.paper.study import Faces, Recipe, Study, digest, losses
from faceflax import FaceflaxError
from faceflax.data.synthetic import _Identity, render_faces
from faceflax.labels import EMOTIONS, GENDERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("low", "high", "answers"),
    [
        (0.1, 0.2, ("holds", "does not hold")),
        (-0.2, -0.1, ("does not hold", "holds")),
        (-0.1, 0.1, ("inconclusive", "inconclusive")),
        (0.0, 0.0, ("does not hold", "does not hold")),
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, answers):
    number = Number("gain", (low + high) / 2, low, high, "points", "bootstrap")
    assert (above("It helps", number, 0).answer, below("It harms", number, 0).answer) == answers


def test_a_verdict_is_a_sentence_with_its_number():
    sentence = str(above("It helps", Number("gain", 0.02, 0.01, 0.03, "points", "bootstrap"), 0))
    assert sentence == "It helps: holds (gain +2.00 [+1.00, +3.00] points; holds above +0.00 points)."
    sentence = str(equal("Small", Number.exact("numbers", 58_424), 58_423))
    assert sentence == "Small: does not hold (numbers 58,424; holds at 58,423)."


def test_a_claim_needs_all_its_parts():
    yes, no, unsure = (above("x", Number("n", m, m - 1, m + 1), 0) for m in (2, -2, 0))

    def record_of(*verdicts):
        return Record("", "", "", "", "", False, 0.0, Result(verdicts, ()))

    def answer(*verdicts):
        record = record_of(*verdicts)
        assert record.sentence.startswith(f"{record.answer.capitalize()}: x (")
        return record.answer

    assert answer(yes, yes) == "holds"
    assert answer(yes, unsure) == "inconclusive"
    assert answer(yes, unsure, no) == "does not hold"
    assert record_of(yes, unsure, yes, no).sentence.endswith("); 2 others: holds; 1 other: inconclusive.")


def test_bootstrap_intervals_are_those_of_the_normal_limit():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    number = intervals.mean("mean", values)
    half = norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([number.low, number.high], [values.mean() - half, values.mean() + half], atol=0.1 * half)
    counts = np.array([700, 200, 100])
    number = intervals.of_counts("difference", counts, lambda shares: shares[:, 0] - shares[:, 1])
    half = norm.ppf(0.975) * np.sqrt((0.7 + 0.2 - 0.5**2) / 1000)
    np.testing.assert_allclose([number.low, number.high], [0.5 - half, 0.5 + half], atol=0.1 * half)


def test_the_interval_over_seeds_covers_seeds_and_images():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = 0.1 * rng.normal(size=(3, 1)) + rng.normal(size=(1, 50)) + 0.5 * rng.normal(size=(3, 50))
        number = intervals.over_seeds("zero", values)
        covered += number.low < 0 < number.high
    assert covered >= 185
    exact = intervals.over_seeds("n", np.array([[0.0, 0.0], [1.0, 1.0]]))  # images do not differ: seeds alone
    assert exact.high - exact.value == pytest.approx(student.ppf(0.975, 1) * 0.5)


def test_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(5, 3)), np.eye(3)[[0, 1, 2, 0, 1]]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = {
        "cross_entropy": -np.log(p[targets == 1]).mean(),
        "squared_error": ((p - targets) ** 2).sum(1).mean(),
        "squared_hinge": (np.maximum(0, 1 - np.where(targets == 1, 1, -1) * logits) ** 2).sum(1).mean(),
    }
    for name, value in expected.items():
        assert float(losses(name, jnp.asarray(logits), jnp.asarray(targets))) == pytest.approx(value, rel=1e-5)


def test_a_confusion_leads_by_its_distance_to_the_next_mistake():
    labels = np.repeat([EMOTIONS.index("fear"), EMOTIONS.index("happy")], [10, 5])
    predicted = np.array([2] * 3 + [4] * 4 + [5] * 2 + [6] + [4] * 5)
    number = confusions.lead(EMOTIONS, predicted, labels, "fear", "sad")
    assert number.value == pytest.approx(0.4 - 0.2)
    assert number.low < number.value < number.high


def test_fisher_vectors_are_gradients_of_the_likelihood():
    """Central differences of the mixture's mean log-likelihood, whitened by the Fisher information's closed form."""
    rng = np.random.default_rng(0)
    mixture = multilevel.Mixture(
        np.array([0.3, 0.7]), np.array([[0.0, 5.0], [30.0, -20.0]]), rng.uniform(0.5, 2, (2, 2))
    )
    component = rng.integers(2, size=40)
    sets = mixture.means[component] + 0.7 * np.sqrt(mixture.variances[component]) * rng.normal(size=(40, 2)) + 0.2

    def likelihood(means, deviations):
        each = norm.logpdf(sets[:, None], means, deviations).sum(2) + np.log(mixture.weights)
        return np.logaddexp.reduce(each, 1).mean()

    deviations, gradients = np.sqrt(mixture.variances), []
    for moved in (0, 1):
        found = np.empty((2, 2))
        for at in np.ndindex(2, 2):
            step = np.zeros((2, 2))
            step[at] = 1e-5
            ends = [
                likelihood(mixture.means + sign * step * (moved == 0), deviations + sign * step * (moved == 1))
                for sign in (1, -1)
            ]
            found[at] = (ends[0] - ends[1]) / 2e-5
        gradients.append(found * deviations / np.sqrt(mixture.weights)[:, None] / np.sqrt(1 + moved))
    code = np.concatenate(gradients, 1).ravel()
    code = np.sign(code) * np.sqrt(np.abs(code))
    np.testing.assert_allclose(multilevel.encode(sets[None], mixture)[0], code / np.linalg.norm(code), atol=1e-5)


def test_alignment_puts_eyes_where_they_should_be():
    rows, columns = np.mgrid[:48, :48]
    eyes_at = np.array([[15.0, 24.0], [31.0, 16.0]])
    image = sum(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) for x, y in eyes_at)
    images = np.stack([image, image]).astype(np.uint8)[..., None]
    place = np.array([[14.0, 18.0], [33.0, 18.0]])
    moved, kept = eyes.align(images, np.stack([eyes_at] * 2), np.array([True, False]), place)
    np.testing.assert_array_equal(kept, images[1])
    for half, (x, y) in zip((slice(0, 24), slice(24, 48)), place, strict=True):
        weights = moved[:, half, 0].astype(float)
        assert (weights * columns[:, half]).sum() / weights.sum() == pytest.approx(x, abs=0.3)
        assert (weights * rows[:, half]).sum() / weights.sum() == pytest.approx(y, abs=0.3)


def test_eyes_are_found_where_they_were_drawn_and_nowhere_in_noise(tmp_path):
    faces = render_faces(28, 0, 48)
    truth = []
    for index, gender in enumerate(faces.genders):
        face = _Identity(np.random.default_rng([0, index, 1]).spawn(3)[0], man=GENDERS[gender] == "man")
        pose = face.pose(48)
        places = face.turn + np.array([[-face.eye_x, face.eye_y], [face.eye_x, face.eye_y]])
        truth.append(places @ pose[:, :2].T + pose[:, 2])
    noise = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 1), np.uint8)
    study = Study(tmp_path, {}, quick=True)
    images = np.concatenate([faces.images, noise])
    centres, seen = eyes.find(study, images)
    assert seen[:-1].mean() > 0.8
    assert not seen[-1]
    distance = np.linalg.norm(centres[:-1] - truth, axis=2)[seen[:-1]]
    assert np.median(distance) < 1.5
    assert distance.max() < 6
    np.testing.assert_allclose(centres[-1], np.median(centres[seen], 0))
    np.testing.assert_array_equal(eyes.find(study, images)[0], centres)  # kept


@pytest.mark.parametrize("pair", [[[14.0, 19.0], [33.0, 20.0]], [[17.0, 15.0], [34.0, 21.0]]])
def test_frames_surround_eyes_and_controls_have_their_area(pair):
    mask = glasses.frame_mask(np.array(pair), 48, glasses.FULL)
    rows, columns = np.nonzero(mask)
    for x, y in pair:
        assert not mask[round(y), round(x)]  # eyes stay free
    assert [columns.mean(), rows.mean()] == pytest.approx(np.mean(pair, 0), abs=1.5)
    assert 0.03 < mask.mean() < 0.15
    for row in (0.0, 0.12, 0.78, 1.0):
        moved = glasses.move(mask[None], row)[0]
        assert moved.sum() == mask.sum()
        shift = np.nonzero(moved)[0].mean() - rows.mean()
        np.testing.assert_array_equal(np.roll(mask, round(shift), 0), moved)
        assert (shift > 0) == (row > 0.5)


@pytest.mark.slow
def test_a_training_is_kept_by_all_that_it_depends_on(tmp_path):
    drawn = render_faces(56, 0, 48)
    faces = Faces(drawn.images, drawn.genders, ("woman", "man"), "drawn")
    study = Study(tmp_path, {}, quick=True)
    recipe = Recipe(epochs=1, batch_size=14)
    variables = study.fit(recipe, faces)[1]
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = study.fit(recipe, faces)[1]
    transferred = study.fit(recipe, faces, start=variables)[1]
    assert file.stat().st_mtime_ns == written
    assert digest(*map(np.asarray, leaves(variables))) == digest(*map(np.asarray, leaves(again)))
    assert len(list(tmp_path.iterdir())) == 2
    assert digest(*map(np.asarray, leaves(transferred))) != digest(*map(np.asarray, leaves(variables)))


def leaves(tree):
    import jax

    return jax.tree.leaves(tree)


class Page(HTMLParser):
    """Counts elements, and collects what the page would have to fetch."""

    def __init__(self):
        super().__init__()
        self.count, self.fetched = {}, []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:image/png;base64,")]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    output = tmp_path_factory.mktemp("paper")
    main(Options(quick=True, output=output))
    return output


@pytest.mark.slow
def test_every_claim_ends_in_verdicts_that_its_numbers_give(quick):
    for name in CLAIMS:
        record = Record.load(quick / "records", name)
        assert record.quick
        assert record.result.verdicts
        for verdict in record.result.verdicts:
            number, threshold = verdict.number, verdict.threshold
            assert np.isfinite([number.low, number.high]).all()
            assert number.low <= number.value <= number.high
            expected = {
                "above": (number.low > threshold, number.high <= threshold),
                "below": (number.high < threshold, number.low >= threshold),
                "at": (number.value == threshold, number.value != threshold),
            }
            assert (verdict.answer == "holds", verdict.answer == "does not hold") == expected[verdict.comparison]
    sizes = Record.load(quick / "records", "sizes")
    counts = [v for v in sizes.result.verdicts if "parameters" in v.statement]
    assert [v.answer for v in counts] == ["holds", "holds"]
    assert sizes.result.tables[0].rows[0][:2] == ("tang_cnn", "5,008,295")


@pytest.mark.slow
def test_the_page_is_whole_and_says_that_it_is_a_rehearsal(quick):
    text = (quick / "report.html").read_text()
    page = Page()
    page.feed(text)
    records = [Record.load(quick / "records", name) for name in CLAIMS]
    assert page.fetched == []
    assert page.count["h2"] == len(CLAIMS)
    assert page.count["table"] == 1 + sum(len(r.result.tables) for r in records)
    assert page.count["img"] == sum(len(r.result.pictures) for r in records) > 5
    assert page.count["code"] == sum(len(r.result.tables) + len(r.result.pictures) for r in records)
    assert report.QUICK in text
    assert "python -m experiments.paper --only glasses --quick" in text


@pytest.mark.slow
def test_finished_claims_are_not_computed_again(quick):
    file = quick / "records" / "chaining.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"title": "kept"}))
    written = {f.name: f.stat().st_mtime_ns for f in (quick / "records").iterdir()}
    main(Options(quick=True, output=quick))
    assert {f.name: f.stat().st_mtime_ns for f in (quick / "records").iterdir()} == written
    assert "kept" in (quick / "report.html").read_text()

    file.write_text(json.dumps(content | {"key": "of another configuration"}))
    main(Options(quick=True, output=quick, only=("chaining",)))
    found = Record.load(quick / "records", "chaining")
    before = json.loads(json.dumps(dataclasses.asdict(found)))
    assert before["key"] == content["key"]
    assert before["result"] == content["result"]  # from the trainings that were kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speed"], "error: --only: unknown 'speed'; choose one of: sizes, pipeline"),
        (["--dataset-gender", "wiki"], "error: --dataset-gender: unknown 'wiki'; choose one of: fairface, imdb"),
        (
            ["--only", "interpretability", "--weights-sequential-emotion", "mine"],
            "error: --weights-sequential-emotion: there are no weights 'mine'; train them with: faceflax train "
            "--arch sequential_cnn --dataset fer2013, then give runs/sequential_cnn-fer2013/weights.safetensors",
        ),
        (
            ["--only", "confusions", "--weights-mini-emotion", "mini_xception-fairface"],
            "error: --weights-mini-emotion: 'mini_xception-fairface' is a mini_xception for woman, man; give",
        ),
        (["--only", "confusions", "--data-dir", "nowhere"], "error: confusions: dataset: 'fer2013' is not prepared"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path, arguments, message, refused):
    said = refused("experiments.paper", "--output", tmp_path, *arguments)
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "report.html").exists()


def test_records_come_back_and_damaged_ones_do_not(tmp_path):
    number = Number("n", 1.0, 0.5, 1.5, "%", "bootstrap")
    record = Record(
        "k", "sizes", "t", "c", "cmd", False, 1.0, Result((above("s", number, 0),), (Table.of("t", [number]),))
    )
    record.save(tmp_path)
    assert Record.load(tmp_path, "sizes") == record
    (tmp_path / "sizes.json").write_text((tmp_path / "sizes.json").read_text()[:-20])
    assert Record.load(tmp_path, "sizes") is None
    assert Record.load(tmp_path, "glasses") is None


def test_the_extra_channel_is_the_probability_all_over():
    faces = Faces(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, int), EMOTIONS, "")
    images = chaining._with_channel(faces, np.array([0.0, 0.8])).images
    assert images.shape == (2, 4, 4, 2)
    assert (images[1, :, :, 1] == 204).all()
    assert not images[..., 0].any()


def test_unknown_weights_are_an_error_of_the_library(tmp_path):
    study = Study(tmp_path, {("mini_xception", "emotion"): "nothing"})
    with pytest.raises(FaceflaxError, match="weights_mini_emotion: there are no weights 'nothing'"):
        study.network("mini_xception", "emotion")
