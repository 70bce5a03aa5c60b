"""The average of two networks' weights."""

import jax
import numpy as np
import pytest

from experiments.tools import average
from faceflax import models, pretrained
from faceflax.errors import FaceflaxError


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two networks of one kind, and one of another."""
    folder = tmp_path_factory.mktemp("networks")
    made = {}
    for seed, (name, arch) in enumerate({"one": "vgg", "other": "vgg", "small": "mini_xception"}.items()):
        model = models.create(arch, 2)
        variables = models.init(model, jax.random.key(seed))
        made[name] = folder / f"{name}.safetensors"
        pretrained.save(made[name], variables, arch=arch, dataset="none", labels=("a", "b"), image_size=48)
    return made


def test_each_number_lies_between_the_two(networks, tmp_path):
    output = tmp_path / "between.safetensors"
    average.main(average.Options(str(networks["one"]), str(networks["other"]), output, share=0.25))
    one, other, made = (pretrained.load(file).variables for file in (networks["one"], networks["other"], output))
    jax.tree.map(lambda x, y, z: np.testing.assert_allclose(z, 0.75 * x + 0.25 * y, atol=1e-6), one, other, made)


def test_networks_that_are_not_alike_are_named(networks, tmp_path):
    with pytest.raises(FaceflaxError, match=r"^after: .*small\.safetensors' has the arch mini_xception, the first vgg"):
        average.main(average.Options(str(networks["one"]), str(networks["small"]), tmp_path / "x.safetensors"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_its_range_is_named(networks, tmp_path, share):
    with pytest.raises(FaceflaxError, match=f"^share: {share} is no share"):
        average.main(average.Options(str(networks["one"]), str(networks["other"]), tmp_path / "x.safetensors", share))
