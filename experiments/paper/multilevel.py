"""Do features of several layers together, Fisher-encoded, classify better than the network's own head?

Command: ``python -m experiments.paper --only multilevel`` (no training of a network; about 6 minutes).

The activations of a layer are a set of vectors, one for each pixel. A Gaussian mixture is fitted to those of training
faces, each face's set is encoded by the gradients with respect to the mixture's means and deviations, and the levels'
codes are concatenated; a ridge classifier is fitted to them. Its regularisation is chosen on PublicTest.

Perronnin, Sánchez and Mensink, "Improving the Fisher Kernel for Large-Scale Image Classification", ECCV 2010.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float
from sklearn.linear_model import RidgeClassifier
from sklearn.mixture import GaussianMixture
from tqdm import tqdm

from experiments.paper import intervals
from experiments.paper.record import Result, Table, above
from experiments.paper.study import Faces, Images, Network, Study
from faceflax.evaluation import predict_logits
from faceflax.inference.compiled import BatchFunction
from faceflax.preprocessing import normalize

TITLE = "7. Multi-level features"
CLAIM = "features of several levels, Fisher-encoded and concatenated, can be classified better than by the last layer."
NEEDS = (("mini_xception", "emotion"),)


@dataclass(frozen=True)
class Config:
    """The levels and how they are encoded."""

    layers: tuple[str, ...] = ("block1", "block2", "block3", "block4")
    components: int = 8
    descriptors: int = 30_000
    """Vectors that a mixture is fitted to."""
    alphas: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
    batch: int = 256


FULL = Config()
QUICK = Config(components=2, descriptors=500, alphas=(1.0, 100.0), batch=98)


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture with a variance for each axis."""

    weights: Float[np.ndarray, " components"]
    means: Float[np.ndarray, "components axes"]
    variances: Float[np.ndarray, "components axes"]

    @classmethod
    def fit(cls, descriptors: Float[np.ndarray, "n axes"], components: int) -> Mixture:
        """Fits by expectation maximisation, seed 0."""
        found = GaussianMixture(
            components, covariance_type="diag", max_iter=50, tol=1e-2, reg_covar=1e-4, random_state=0
        )
        found.fit(descriptors)
        return cls(found.weights_, found.means_, found.covariances_)


def run(study: Study, config: Config) -> Result:
    """Encodes all splits, classifies, and compares with the head."""
    network = study.network("mini_xception", "emotion")
    size = network.weights.image_size
    splits = {split: study.faces("emotion", split, size) for split in ("train", "validation", "test")}
    sets_of = _sets(network, config)
    mixtures = _mixtures(sets_of, splits["train"], config)
    codes = {split: _encode_split(sets_of, faces, mixtures, config.batch) for split, faces in splits.items()}
    head = _right(predict_logits(network.model, network.variables, splits["test"].images), splits["test"])
    rows = [("the network's own head", "", "", str(intervals.share("", head)))]
    found = {}
    every = "all levels"
    for name, layers in {**{layer: (layer,) for layer in config.layers}, every: config.layers}.items():
        codes_of = {split: np.concatenate([c[layer] for layer in layers], 1) for split, c in codes.items()}
        best: tuple[float, float, RidgeClassifier] | None = None
        for alpha in config.alphas:
            classifier = RidgeClassifier(alpha).fit(codes_of["train"], splits["train"].labels)
            score = float((classifier.predict(codes_of["validation"]) == splits["validation"].labels).mean())
            if best is None or score > best[0]:
                best = score, alpha, classifier
        assert best is not None
        found[name] = best[2].predict(codes_of["test"]) == splits["test"].labels
        rows.append((name, f"{codes_of['train'].shape[1]:,}", f"{best[1]:g}", str(intervals.share("", found[name]))))
    last = config.layers[-1]
    gain = intervals.mean("gain over the head", found[every].astype(float) - head, "points")
    over_last = intervals.mean(f"gain over {last} alone", found[every].astype(float) - found[last], "points")
    return Result(
        verdicts=(
            above("All levels together classify better than the network's own head", gain, 0),
            above(f"All levels together classify better than {last} alone", over_last, 0),
        ),
        tables=(
            Table(
                f"Accuracy on {splits['test'].source} of {network.weights.name}",
                ("features", "values a face", "ridge alpha, by validation", "accuracy"),
                tuple(rows),
            ),
            Table.of("Paired differences", [gain, over_last]),
        ),
        remarks=("The classifier is fitted to the faces that the network itself was fitted to.",),
    )


def encode(
    sets: Float[np.ndarray, "batch pixels axes"], mixture: Mixture
) -> Float[np.ndarray, "batch components_axes_2"]:
    """Fisher vectors: gradients of the sets' mean log-likelihood, whitened, with signed square root and unit length.

    Args:
        sets: the vectors of each image.
        mixture: what they are compared with.

    Example:
        >>> standard = Mixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1)))
        >>> print(encode(np.array([[[1.0], [1.0]]]), standard))  # mean 1, deviation 1 from the mean 0
        [[1. 0.]]
    """
    deviations = np.sqrt(mixture.variances)
    distance = (sets[:, :, None] - mixture.means) / deviations  # [batch, pixels, components, axes]
    log_p = np.log(mixture.weights) - np.log(deviations).sum(1) - 0.5 * np.einsum("bnka,bnka->bnk", distance, distance)
    log_p -= log_p.max(2, keepdims=True)
    share = np.exp(log_p)
    share /= share.sum(2, keepdims=True)
    count = sets.shape[1]
    root = np.sqrt(mixture.weights)[None, :, None]
    first = np.einsum("bnk,bnka->bka", share, distance) / (count * root)
    second = np.einsum("bnk,bnka->bka", share, distance**2 - 1) / (count * root * np.sqrt(2))
    code = np.concatenate([first, second], 2).reshape(len(sets), -1)
    code = np.sign(code) * np.sqrt(np.abs(code))
    length = np.linalg.norm(code, axis=1, keepdims=True)
    return code / np.where(length > 0, length, 1)


Sets = Callable[[Images], dict[str, Float[np.ndarray, "n pixels axes"]]]


def _sets(network: Network, config: Config) -> Sets:
    """Builds what computes each layer's vectors of images."""

    def sets(images: jax.Array) -> dict[str, jax.Array]:
        features = network.model.apply(network.variables, normalize(images))[1]
        return {layer: features[layer].reshape(len(images), -1, features[layer].shape[-1]) for layer in config.layers}

    return BatchFunction(sets, sizes=(config.batch,))


def _mixtures(sets_of: Sets, faces: Faces, config: Config) -> dict[str, Mixture]:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(faces.images))
    found = {}
    parts: dict[str, list[np.ndarray]] = {layer: [] for layer in config.layers}
    for start in range(0, min(len(order), 16 * config.batch), config.batch):
        for layer, sets in sets_of(faces.images[order[start : start + config.batch]]).items():
            vectors = sets.reshape(-1, sets.shape[-1])
            parts[layer].append(vectors[rng.permutation(len(vectors))[: config.descriptors // 8]])
    for layer, drawn in parts.items():
        together = rng.permutation(np.concatenate(drawn))[: config.descriptors]
        found[layer] = Mixture.fit(together.astype(np.float64), config.components)
    return found


def _encode_split(
    sets_of: Sets, faces: Faces, mixtures: dict[str, Mixture], batch: int
) -> dict[str, Float[np.ndarray, "n code"]]:
    codes: dict[str, list[np.ndarray]] = {layer: [] for layer in mixtures}
    for start in tqdm(range(0, len(faces.images), batch), f"encoding, {faces.source}", leave=False):
        sets = sets_of(faces.images[start : start + batch])
        for layer, mixture in mixtures.items():
            codes[layer].append(encode(sets[layer], mixture).astype(np.float32))
    return {layer: np.concatenate(parts) for layer, parts in codes.items()}


def _right(found: Float[np.ndarray, "n classes"], faces: Faces) -> np.ndarray:
    return found.argmax(1) == faces.labels
