"""How far generated digits are from real ones: a Fréchet distance without Inception, which would be a download.

FID (Heusel et al., 2017) compares Gaussians fitted to the features of real and generated images. Here the features are
the hidden layer of a small classifier, trained on the real digits alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rddm_fast.images.digits import NATIVE, Digits
from rddm_fast.restoration.perceptual import frechet_distance
from rddm_fast.system.extras import require

HIDDEN = 64
HELD_OUT = 360
"""Number of the 1797 digits that the classifier is not trained on. Its accuracy is measured on them."""


@dataclass(frozen=True)
class Judge:
    """A classifier of 8x8 digits with one hidden layer, and its numbers for the real ones.

    accuracy: share of the held-out digits that it classifies correctly.
    floor: Fréchet distance between two random halves of the real digits. Smaller distances mean nothing.
    confidence: its greatest probability, averaged over the held-out digits.
    """

    classifier: Any
    real: Tensor
    accuracy: float
    floor: float
    confidence: float

    @classmethod
    def trained(cls) -> Judge:
        """Train the same classifier every time. Raises ImportError if scikit-learn or torchmetrics is not installed."""
        network = require("sklearn.neural_network", "digits").MLPClassifier
        digits = Digits(NATIVE)
        pixels, labels = digits.images.flatten(1).numpy(), np.array(digits.labels)
        order = np.random.default_rng(0).permutation(len(pixels))
        held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
        classifier = network((HIDDEN,), early_stopping=True, n_iter_no_change=20, max_iter=500, random_state=0)
        classifier.fit(pixels[rest], labels[rest])
        real = _features(classifier, pixels)
        half = len(order) // 2
        return cls(
            classifier,
            real,
            accuracy=float(classifier.score(pixels[held_out], labels[held_out])),
            floor=frechet_distance(real[order[:half]], real[order[half:]]),
            confidence=float(classifier.predict_proba(pixels[held_out]).max(1).mean()),
        )

    def scores(self, images: Tensor) -> dict[str, float]:
        """Return `frechet` and `confidence` of generated images (N, 1, 8, 8) in [0, 1], N at least 2."""
        pixels = images.flatten(1).numpy()
        return {
            "frechet": frechet_distance(self.real, _features(self.classifier, pixels)),
            "confidence": float(self.classifier.predict_proba(pixels).max(1).mean()),
        }


def _features(classifier: Any, pixels: np.ndarray) -> Tensor:
    """The hidden layer, (N, HIDDEN) float64, of pixels (N, 64)."""
    weights, bias = classifier.coefs_[0], classifier.intercepts_[0]
    return torch.from_numpy(np.maximum(pixels.astype(np.float64) @ weights + bias, 0))
