"""Degradations by name: what the names stand for, what is drawn, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor

from rddm_fast.inverse import cold
from rddm_fast.inverse.cold.snow import snow_layers, snow_noise

SIZE = (16, 12)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *SIZE, generator=seeded(3)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "written_out"),
    [
        ("blur", lambda: cold.Blur(SIZE, 20, "Constant_reflect", std=1.0, taps=7)),
        ("resolution", lambda: cold.Resolution(SIZE, 3, "Incremental_factor_2")),
        ("fade", lambda: cold.Fade(SIZE, 30, "Incremental", std=0.2, initial_mask=1)),
        ("snow", lambda: cold.Snow(snow_layers(snow_noise(SIZE, 3, 2, seeded(5)), 20, 3), 3)),
        ("decolour", lambda: cold.Decolour(20, "Linear")),
    ],
)
def test_what_a_name_stands_for(name: str, written_out: object) -> None:
    expected, x = written_out(), picture()  # type: ignore[operator]
    ours = cold.named(name, SIZE, pictures=2, generator=seeded(5))
    assert ours.T == expected.T and torch.equal(ours.start(x), expected.start(x))
    assert not torch.equal(ours.start(x), x)
    assert torch.equal(cold.named(f"cold:{name}", SIZE, pictures=2, generator=seeded(5)).start(x), ours.start(x))


@pytest.mark.parametrize("name", cold.COLD)
def test_a_recipe_survives_json_and_restores_exactly(name: str) -> None:
    recipe = cold.Recipe.parsed(f"cold:{name}:2")
    again = cold.Recipe.of(json.loads(json.dumps(recipe.values())))
    assert again == recipe and again.T == 2
    drawn, x = again.draw(SIZE, 2, seeded(1)), picture()
    degradation = again.made(SIZE, drawn)
    restored = cold.sample(lambda x_s, s: x, degradation, degradation.start(x))
    assert (restored - x).abs().max() < 1e-5


def test_only_snow_is_drawn_for_each_picture() -> None:
    assert [name for name in cold.COLD if cold.Recipe.parsed(name).drawn_per_picture] == ["snow"]
    snow = cold.named("snow", SIZE, pictures=2, generator=seeded(1))
    first, second = snow.start(picture(1).expand(2, -1, -1, -1))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match=r"cold:snow is drawn for each picture: pass what Recipe\.draw returns"):
        cold.Recipe.parsed("snow").made(SIZE)


@pytest.mark.parametrize(
    ("spec", "T", "sentence"),
    [
        ("cold:rain", None, "unknown cold degradation 'rain': choose one of blur, resolution, fade, snow, decolour"),
        ("cold:blur:many", None, "'cold:blur:many' has no whole number of levels: write it as cold:blur:20"),
        ("cold:blur:0", None, "T is 0: a degradation has a whole number of levels, at least 1"),
        ("blur", -1, "T is -1: a degradation has a whole number of levels, at least 1"),
        ("cold:resolution:5", None, "step 5 of Incremental_factor_2 leaves no pixel of 16; T may be 4 at most"),
    ],
)
def test_what_is_refused(spec: str, T: int | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        cold.named(spec, SIZE, T)
