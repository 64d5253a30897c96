"""The digits are scikit-learn's, in a repeatable order."""

import pytest
import torch
from sklearn.datasets import load_digits

from rddm_fast.images.digits import Digits


def test_the_native_size_is_the_set_itself() -> None:
    digits, found = Digits(8), load_digits()
    assert len(digits) == 1797
    for i in (0, 9, 1796):
        assert torch.equal(digits[i]["target"][0] * 16, torch.from_numpy(found.images[i]).float())
        assert digits[i]["label"] == found.target[i]


def test_a_pass_shows_every_digit_once_and_the_next_in_another_order() -> None:
    digits = Digits(8, length=2 * 1797, seed=3)
    labels = [digits[i]["label"] for i in range(len(digits))]
    assert sorted(labels[:1797]) == sorted(labels[1797:]) == sorted(digits.labels)
    assert labels[:1797] != labels[1797:] and labels[:50] == [
        Digits(8, length=50, seed=3)[i]["label"] for i in range(50)
    ]


def test_larger_digits_stay_in_range() -> None:
    image = Digits(16)[0]["target"]
    assert image.shape == (1, 16, 16) and image.min() >= 0 and image.max() <= 1
    with pytest.raises(ValueError, match="only scaled up, got side 4"):
        Digits(4)
