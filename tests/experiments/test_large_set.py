"""The generated set is one that imdb's builder reads; the measured trainings are the experiment's command."""

import numpy as np
import pytest

from experiments.large_set import PHOTOS, Options, main, write_set
from faceflax.data import load_index
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError


def test_the_set_is_prepared_as_imdb_and_nobody_is_in_two_splits(tmp_path):
    source = write_set(tmp_path, 300)
    builder = make_builder("imdb", source=source, data_dir=tmp_path / "prepared")
    builder.prepare()
    assert "300 of 300 photos" in builder.notes[0]
    people = {}
    for split in ("train", "validation", "test"):
        examples = list(builder.as_data_source(split))
        people[split] = {example["id"].decode().split("/nm")[1][:7] for example in examples}
        assert len(examples) == PHOTOS * len(people[split])
        assert {example["image"].shape for example in examples} == {(80, 80, 1), (128, 128, 1)}
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 60
    index = load_index("imdb", "train", image_size=32, data_dir=tmp_path / "prepared")
    images = index.images[np.arange(60)][:, 12:20, 12:20].astype(float).mean((1, 2, 3))
    assert images[index.labels[:60] == 1].mean() < 0.7 * images[index.labels[:60] == 0].mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "images: 0 is too small; give 1 or more"),
        ({"images": 2000}, "images: 2000 are too few for more than 32 steps of 64 training images; give more, or a"),
    ],
)
def test_bad_options_are_named(changes, message, tmp_path):
    with pytest.raises(FaceflaxError, match=message):
        main(Options(folder=tmp_path, **changes))
