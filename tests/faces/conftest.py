import jax
import numpy as np
import pytest

from faceflax import models, pretrained
from faceflax.labels import EMOTIONS, GENDERS


def random_variables(num_classes):
    """A network and variables drawn at random, running statistics included."""
    model = models.create("mini_xception", num_classes)
    rng = np.random.default_rng(num_classes)

    def draw(path, shape):
        positive = path[-1].key in ("scale", "var")
        return (rng.uniform(0.5, 1.5, shape.shape) if positive else rng.normal(0, 0.2, shape.shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_size=32))
    return model, jax.tree.map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def network():
    return random_variables(7)


@pytest.fixture(scope="session")
def weights(tmp_path_factory, network):
    """Paths of an emotion and a gender file that differ in size, margin and temperature."""
    folder = tmp_path_factory.mktemp("weights")
    files = folder / "emotion.safetensors", folder / "gender.safetensors"
    common = {"arch": "mini_xception", "dataset": "none"}
    emotion = {"labels": EMOTIONS, "image_size": 32, "crop_margin": 0.0, "temperature": 1.5}
    gender = {"labels": GENDERS, "image_size": 40, "crop_margin": 0.3, "temperature": 0.5}
    pretrained.save(files[0], network[1], **common, **emotion)
    pretrained.save(files[1], random_variables(2)[1], **common, **gender)
    return files
