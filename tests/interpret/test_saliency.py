"""The command, from options to the picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

import faceflax
import interpret
from faceflax import models, pretrained
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media.demo import photograph
from faceflax.preprocessing import normalize
from interpret import figures, saliency
from interpret.saliency import Options

ROOT = Path(__file__).resolve().parents[2]


def random_variables(model):
    """Numbers of the right shapes, without the time that compiling the network's own initialiser takes."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    return jax.tree.map(lambda leaf: generator.uniform(-0.2, 0.8, leaf.shape).astype(np.float32) ** 2, shapes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with weights (two networks of two image sizes, one of gender) and pictures, labelled and not."""
    folder = tmp_path_factory.mktemp("files")
    for name, arch, labels, size in [
        ("mini", "mini_xception", EMOTIONS, 32),
        ("sequential", "sequential_cnn", EMOTIONS, 40),
        ("gender", "sequential_cnn", GENDERS, 32),
        ("wide", "sequential_cnn", EMOTIONS, 40),
    ]:
        variables = random_variables(models.create(arch, len(labels)))
        pretrained.save(
            folder / f"{name}.safetensors",
            variables,
            arch=arch,
            dataset="none",
            labels=labels,
            image_size=size,
            crop_margin=0.5 if name == "wide" else 0.0,
        )
    generator = np.random.default_rng(0)
    for name in ["flat/1", "flat/2", "classes/happy/1", "classes/happy/2", "classes/angry/1", "wrong/joyful/1"]:
        file = folder / "pictures" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), generator.integers(0, 256, (50, 44, 3), np.uint8))
    (folder / "pictures/empty").mkdir()
    (folder / "pictures/broken").mkdir()
    (folder / "pictures/broken/1.jpg").write_bytes(b"no picture")
    (folder / "pictures/broken/none.jpg").write_bytes(b"")
    return folder


def options(files, tmp_path, **changes):
    given = {"weights": (str(files / "mini.safetensors"),), "images": files / "pictures/classes", "whole_image": True}
    return Options(**given | {"output": tmp_path / "new" / "saliency.png"} | changes)


def test_both_networks_side_by_side(files, tmp_path, capsys):
    weights = tuple(str(files / f"{name}.safetensors") for name in ("mini", "sequential"))
    given = options(files, tmp_path, weights=weights, samples=2)
    figure = saliency.draw(saliency.explain(given), given)
    assert "faces: classes" in capsys.readouterr().out

    drawn = [axes for axes in figure.axes if axes.images]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in drawn]
    assert [picture.shape for picture in pictures] == [(40, 40), (32, 32), (40, 40)] * 3  # one angry face, two happy
    assert [axes.get_ylabel() for axes in drawn if axes.get_ylabel()] == ["angry", "happy"]
    titles = [axes.get_title().split("\n")[0] for axes in drawn]
    columns = ["face", "mini_xception", "sequential_cnn"]
    assert titles == columns + [""] * 3 + columns  # above the first picture of each column, in whichever row it is
    angry = cv2.imread(str(files / "pictures/classes/angry/1.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(pictures[0], cv2.resize(angry, (40, 40), interpolation=cv2.INTER_AREA))

    model, variables = pretrained.load(weights[0])
    face = normalize(cv2.resize(angry, (32, 32), interpolation=cv2.INTER_AREA))[None, ..., None]
    expected = interpret.guided_backprop(model, variables, np.repeat(face, 3, 0))[0, ..., 0]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(pictures[1], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("images", "output"), [("flat", "a.png"), ("flat/1.png", "b.pdf")])
def test_unlabelled_images_are_explained(files, tmp_path, images, output):
    saliency.main(
        options(
            files,
            tmp_path,
            weights=(str(files / "sequential.safetensors"),),
            images=files / "pictures" / images,
            output=tmp_path / output,
            method="gradient",
        )
    )
    content = (tmp_path / output).read_bytes()
    if output.endswith(".pdf"):
        assert content.startswith(b"%PDF")
    else:
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).std() > 10
    assert [file.name for file in tmp_path.iterdir()] == [output]


def test_arrays_of_one_emotion_s_own_logit(files, tmp_path):
    saliency.main(
        options(files, tmp_path, emotions=("happy",), target="emotion", method="gradient", output=tmp_path / "maps.npz")
    )
    arrays = np.load(tmp_path / "maps.npz")
    assert (arrays["method"], arrays["target"], arrays["source"]) == ("gradient", "emotion", "classes")
    np.testing.assert_array_equal(arrays["emotions"], EMOTIONS)
    np.testing.assert_array_equal(arrays["labels"], [3, 3])
    (name,) = arrays["weights"]
    faces = normalize(arrays[f"images {name}"])[..., None]
    model, variables = pretrained.load(str(files / "mini.safetensors"))
    expected = interpret.gradient(model, variables, faces, 3)[..., 0]
    np.testing.assert_allclose(arrays[f"maps {name}"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_metrics_are_printed(files, tmp_path, capsys):
    model = models.create("sequential_cnn", len(EMOTIONS))
    variables = jax.tree.map(lambda leaf: leaf * np.float32(0.1), random_variables(model))
    weights, images = tmp_path / "tame.safetensors", files / "pictures/classes/angry"
    pretrained.save(weights, variables, arch="sequential_cnn", dataset="none", labels=EMOTIONS, image_size=32)
    saliency.main(options(files, tmp_path, weights=(str(weights),), images=images, method="gradient", metrics=True))
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "deletion" in table[0]
    values = [float(value) for value in table[2].split("|")[2:-1]]
    assert len(values) == 7
    assert np.isfinite(values).all()


def test_faces_are_found_in_photographs_as_analyze_finds_them(files, tmp_path, capsys):
    """One alone, tilted; two side by side; and none."""
    photo = photograph()
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 12, 1)
    folder = tmp_path / "photographs"
    folder.mkdir()
    pictures = {
        "a.png": cv2.warpAffine(photo, turn, (width, height), borderMode=cv2.BORDER_REPLICATE),
        "b.png": np.concatenate([photo, photo[:, ::-1]], 1),
        "c.png": np.full((90, 80, 3), 128, np.uint8),
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / name), picture)
    weights = tuple(str(files / f"{name}.safetensors") for name in ("mini", "wide"))
    given = options(files, tmp_path, weights=weights, images=folder, whole_image=False, samples=9, method="gradient")
    explained = saliency.explain(given)
    said = (
        "faces: found and cut out 3 in 2 of 3 images; none in c.png (whole_image takes each image as a face as it is)"
    )
    assert said in capsys.readouterr().out
    found = [face for name in ("a.png", "b.png") for face in faceflax.FaceAnalyzer(preset="fast")(pictures[name])]
    boxes = [next(name for name, n in (("a.png", 1), ("b.png", 3)) if i < n) for i in range(3)]
    assert [maps.shape for maps in explained.maps] == [(3, 32, 32), (3, 40, 40)]
    for cut in (saliency.Cut(32, 32, 0.0), saliency.Cut(40, 40, 0.5)):
        expected = {
            face.crop(pictures[name], cut.margin, cut.height).tobytes() for face, name in zip(found, boxes, strict=True)
        }
        assert {image.tobytes() for image in explained.images[cut]} == expected


def test_a_labelled_photograph_is_of_one_face(files, tmp_path, capsys):
    photo = photograph()
    file = tmp_path / "photographs/sad/1.png"
    file.parent.mkdir(parents=True)
    cv2.imwrite(str(file), np.concatenate([photo, photo[:, ::-1]], 1))
    explained = saliency.explain(
        options(files, tmp_path, images=tmp_path / "photographs", whole_image=False, method="gradient")
    )
    np.testing.assert_array_equal(explained.labels, [EMOTIONS.index("sad")])
    assert "found and cut out 1 in 1 of 1 image; of several in a labelled image the surest" in capsys.readouterr().out


def test_samples_of_each_label_are_chosen_by_the_seed():
    labels = np.array([3, 0, 3, 3, 0, 3, 6] * 10)
    first, again, other = (saliency._choose(labels, [6, 0, 3, 5], 4, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first)) == 12
    np.testing.assert_array_equal(np.bincount(labels[first]), [4, 0, 0, 4, 0, 0, 4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples: 0 is out of range; give 1 to 20"),
        ({"seed": -1}, "seed: -1 is no seed; give 0 to 4294967295"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is no seed"),
        ({"output": Path("saliency.gif")}, "output: 'saliency.gif' is none of .png, .pdf, .npz"),
        ({"method": "shap"}, "method: unknown 'shap'; choose one of: gradient, gradient_x_input, .*, rise,"),
        ({"emotions": ("bored",)}, "emotions: unknown 'bored'; choose one of: angry"),
        ({"emotions": ("fear", "sad")}, "emotions: no face of classes shows fear, sad; name others"),
        ({"arch": ("resnet",)}, "arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn, vgg"),
        ({"arch": ("sequential_cnn",)}, "is of mini_xception, which is not in arch"),
        ({"layer": "stage1"}, r"layer: unknown 'stage1'; choose one of: stem1, .*, last_conv \(of mini_xception"),
        ({"weights": ("nothing",)}, "weights: unknown 'nothing'"),
        ({"weights": ("gender",)}, "weights: .* predicts woman, man; give weights that predict angry, disgust"),
        ({"images": "nowhere"}, "images: there is nothing at"),
        ({"images": "empty"}, "images: no images in"),
        (
            {"images": "flat", "whole_image": False},
            "images: no face was found in the 2 images of 'flat'; whole_image takes each image as a face as it is",
        ),
        ({"images": None}, "whole_image: is for images; give them, or leave it out"),
        ({"images": "broken"}, "images: cannot read the image .*1.jpg'"),
        ({"images": "broken/none.jpg"}, "images: cannot read the image .*none.jpg'"),
        ({"images": "wrong"}, "images: the folders of .*: unknown 'joyful'; choose one of: angry"),
    ],
)
def test_bad_input(files, tmp_path, changes, message):
    if changes.get("images"):
        changes = changes | {"images": files / "pictures" / changes["images"]}
    if changes.get("weights") == ("gender",):
        changes = {"weights": (str(files / "gender.safetensors"),)}
    with pytest.raises(FaceflaxError, match=message):
        saliency.main(options(files, tmp_path, **changes))
    assert not list(tmp_path.rglob("*.png"))


MINE = """
import jax.numpy as jnp
import numpy as np
import interpret

def colours(variables, images):
    hidden = jnp.maximum(images, 0)
    return hidden.mean((1, 2)) @ variables, {"hidden": hidden}

def network(**changes):
    given = {"image_size": (20, 30), "labels": ("red", "green", "blue"), "preprocess": lambda images: images / 255.0}
    return interpret.Subject(interpret.wrap(colours, np.eye(3, dtype=np.float32)), **given | changes)

def of_faces():
    return network(image_size=(24, 24), crop_margin=0.25)

def grey():
    return network(channels=1, labels=(), preprocess=lambda images: jnp.repeat(images, 3, -1) / 255.0)

def two_labels():
    return network(labels=("red", "green"))

def odd_sizes():
    return network(image_size=20)

def wide_faces():
    return network(crop_margin=0.0)

def no_network():
    return interpret.Subject(colours, (20, 30))

def broken():
    raise OSError("no such weights")

def unready():
    return network(preprocess=lambda images: images.nothing)

def pair():
    return interpret.wrap(colours, np.eye(3))

NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of a user's own module, with two labelled images, red and blue."""
    (tmp_path / "of_mine.py").write_text(MINE)
    (tmp_path / "half.py").write_text("import a_package_that_nobody_has")
    (tmp_path / "wrong.py").write_text("1 / 0")
    for i, name in enumerate(("blue", "red")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 50, (40, 60, 3), np.uint8)
        pixels[8:20, 8:30, 2 * i] = 255  # blue, then red, as OpenCV has them
        cv2.imwrite(str(tmp_path / "pictures" / name / "1.png"), pixels)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]
    sys.modules.pop("of_mine", None)


def of_mine(folder, model, **changes):
    given = {"images": folder / "pictures", "method": "integrated_gradients", "target": "emotion"}
    return Options(**given | {"model": model, "output": folder / "maps.png"} | changes)


def test_a_network_of_ones_own_is_explained_in_colour_and_in_its_own_shape(mine):
    given = of_mine(mine, "of_mine:network")
    explained = saliency.explain(given)
    assert explained.networks[0].labels == ("red", "green", "blue")
    np.testing.assert_array_equal(explained.labels, [0, 2])
    (images,), (maps,) = explained.images.values(), explained.maps
    assert images.shape == (2, 20, 30, 3)
    for image, values, channel in zip(images, maps, (0, 2), strict=True):
        assert image[4:10, 4:15, channel].min() > 240
        np.testing.assert_allclose(values, image[..., channel] / 255 / 600 / 3, rtol=1e-4)  # the mean over channels
    drawn = [axes for axes in saliency.draw(explained, given).axes if axes.images]
    assert [axes.get_ylabel() for axes in drawn if axes.get_ylabel()] == ["red", "blue"]
    assert [axes.get_title() for axes in drawn][:2] == ["image", "network\n9 numbers"]
    assert {tuple(axes.images[0].get_extent()) for axes in drawn} == {(0, 1, 2 / 3, 0)}


def test_its_own_predictions_are_the_rows_of_unlabelled_images(mine, capsys):
    explained = saliency.explain(of_mine(mine, "of_mine:network", images=mine / "pictures/blue", layer="hidden"))
    np.testing.assert_array_equal(explained.labels, [2])
    assert "images: blue" in capsys.readouterr().out
    grey = saliency.explain(of_mine(mine, "of_mine:grey", images=mine / "pictures/blue"))
    assert grey.networks[0].labels == ("class 0", "class 1", "class 2")
    assert [images.shape for images in grey.images.values()] == [(1, 20, 30)]


def test_a_network_of_faces_gets_faces_in_colour(mine):
    file = mine / "photograph.png"
    cv2.imwrite(str(file), photograph())
    explained = saliency.explain(of_mine(mine, "of_mine:of_faces", images=file))
    (face,) = faceflax.FaceAnalyzer(preset="fast")(photograph())
    expected = face.crop(photograph(), 0.25, 24)
    (images,) = explained.images.values()
    grey = cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY)  # cut out and then grey, not the other way round
    assert np.abs(grey.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "of_mine"}, "model: 'of_mine' is not of the form module:function; give one, such as mine:network"),
        ({"model": "nowhere:f"}, "model: there is no module 'nowhere' for 'nowhere:f'; give its name without .py"),
        ({"model": "half:f"}, "importing its module raised ModuleNotFoundError: No module named 'a_package_that"),
        ({"model": "wrong:f"}, "model: 'wrong:f': importing its module raised ZeroDivisionError: division by zero"),
        ({"model": "of_mine:nets"}, "model: unknown 'of_mine:nets'; choose one of: of_mine:colours, of_mine:network"),
        ({"model": "of_mine:NUMBER"}, "model: unknown 'of_mine:NUMBER'"),
        ({"model": "of_mine:broken"}, "model: 'of_mine:broken': calling it raised OSError: no such weights"),
        ({"model": "of_mine:pair"}, "model: 'of_mine:pair' returned an object of type tuple; return interpret.Subject"),
        ({"model": "of_mine:two_labels"}, "model: 'of_mine:two_labels' has 2 labels for 3 logits"),
        ({"model": "of_mine:unready"}, "preprocess raised AttributeError: 'numpy.ndarray' object has no attribute"),
        ({"model": "of_mine:odd_sizes"}, "calling it raised FaceflaxError: image_size: 20 is not height and width"),
        ({"model": "of_mine:wide_faces"}, "crop_margin: 0.0 faces are cut out as squares"),
        ({"model": "of_mine:no_network"}, "network: a 'function' is no model and variables; give interpret.wrap"),
        ({"images": None}, "images: are needed for a model of one's own"),
        ({"weights": ("mini_xception-fer2013",)}, "weights: 'mini_xception-fer2013' are not used with model"),
        ({"emotions": ("happy",)}, "emotions: unknown 'happy'; choose one of: red, green, blue"),
        ({"emotions": ("green",)}, "emotions: no image of pictures shows green; name others"),
        ({"target": "highest"}, "layer: unknown 'last_conv'; choose one of: hidden"),
        ({"method": "grad_cam"}, "layer: unknown 'last_conv'; choose one of: hidden"),
    ],
)
def test_a_network_of_ones_own_that_cannot_be_used(mine, changes, message):
    with pytest.raises(FaceflaxError, match=message):
        saliency.main(of_mine(mine, **{"model": "of_mine:network"} | changes))
    assert not (mine / "maps.png").exists()


def test_command_line():
    run = [sys.executable, "-m", "interpret.saliency"]
    shown = subprocess.run([*run, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--layer" in shown.stdout
    bad = subprocess.run([*run, "--samples", "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: --samples: 0")
    heavy = "import sys, interpret.saliency; print({'jax', 'flax', 'matplotlib', 'cv2', 'numpy'} & set(sys.modules))"
    light = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert light.stdout == "set()\n"


MAPS = np.random.default_rng(0).normal(size=(3, 8, 8)) * np.array([1.0, 1000.0, 0.0])[:, None, None]


def grid(maps, **changes):
    return figures.attribution_grid(
        {"happy": np.array([2, 0]), "sad": np.array([1])},
        np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8),
        [figures.Panel("network", maps)],
        title="Gradient",
        caption="",
        **changes,
    )


def test_maps_share_no_scale_and_zero_is_white():
    maps = MAPS
    figure = grid(maps)
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_cmap().name for image in drawn] == ["gray", "RdBu_r"] * 3
    for image, index in zip(drawn[1::2], (2, 0, 1), strict=True):
        low, high = image.get_clim()
        assert low == -high
        assert high == (np.percentile(np.abs(maps[index]), 99.5) or 1)
    assert figure.axes[0].get_ylabel() == "happy"


def test_maps_without_a_sign_start_at_black_and_may_share_a_scale():
    maps = np.abs(MAPS)
    figure = grid(maps, signed=False, scale="network")
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_cmap().name for image in drawn] == ["gray", "inferno"] * 3
    limit = np.percentile(maps, 99.5)
    assert {image.get_clim() for image in drawn[1::2]} == {(0, limit)}
    assert f"all maps of a network, {limit:.2g}" in " ".join(text.get_text() for text in figure.texts).replace(
        "\n", " "
    )


def test_overlays_are_the_fainter_the_smaller_the_values():
    figure = grid(MAPS, overlay=True)
    face, values = figure.axes[3].images  # of the second happy face
    np.testing.assert_array_equal(face.get_array(), figure.axes[2].images[0].get_array())
    assert face.get_extent() == values.get_extent()
    limit = np.percentile(np.abs(MAPS[0]), 99.5)
    np.testing.assert_allclose(values.get_alpha(), np.minimum(np.abs(MAPS[0]) / limit, 1))
