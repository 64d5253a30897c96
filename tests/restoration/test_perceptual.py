"""FID and the Inception Score, as the published formulas have them."""

import numpy as np
import pytest
import torch

from rddm_fast.restoration.perceptual import frechet_distance, inception_score

pytest.importorskip("torchmetrics")


def test_inception_score_is_the_published_formula() -> None:
    probabilities = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).softmax(1).double()
    p = probabilities.numpy()
    expected = np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    mean, _ = inception_score(probabilities, splits=1)
    assert mean == pytest.approx(expected, rel=1e-9)
    assert inception_score(torch.eye(5).repeat(4, 1), splits=1)[0] == pytest.approx(5)  # certain, and all classes
    state = torch.get_rng_state()
    assert inception_score(probabilities) == inception_score(probabilities)
    assert torch.equal(torch.get_rng_state(), state)


def test_fid_of_one_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
