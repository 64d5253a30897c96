"""The average of the weights, ours and the published one."""

import math
from pathlib import Path

import pytest
import torch
from train_worker import SETTINGS, Pairs, trainer

from rddm_fast.training.batches import batches
from rddm_fast.training.ema import Ema, published_decay


def test_the_average_follows_its_definition(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    name = "model.unet0.final_conv.weight"
    average = run.diffusion.state_dict()[name].double()  # n = 0 copies
    expected = None
    for n, step_batches in zip(range(4), batches(Pairs(), SETTINGS, 0, (0, 1)), strict=False):
        run.phase.advance(step_batches)
        now = run.diffusion.state_dict()[name].double()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = now if n == 0 else decay * average + (1 - decay) * now
        average = expected
    assert expected is not None
    torch.testing.assert_close(run.ema.module.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_the_published_average() -> None:
    """The decays of ema-pytorch 0.0.10 at these calls, with its defaults."""
    at = {k: published_decay(k, 0.995) for k in (0, 5, 100, 110, 120, 200, 1000, 2930, 10_000)}
    assert at[5] is None and at[0] == at[100] == at[110] == 0.0
    expected = {120: 1 - 21 ** (-2 / 3), 200: 0.954, 1000: 0.9893, 2930: 0.995, 10_000: 0.995}
    assert all(at[k] == pytest.approx(value, abs=6e-4) for k, value in expected.items())


def test_the_published_average_averages() -> None:
    source = torch.nn.Linear(1, 1)
    ema = Ema(source, "published", 0.995)
    values = []
    for step in range(131):
        with torch.no_grad():
            source.weight.fill_(math.sin(step))
        ema.update(source)
        values.append(float(ema.module.weight))
    assert values[99] == pytest.approx(math.sin(90)) and values[110] == pytest.approx(math.sin(110))
    decay = published_decay(120, 0.995)
    assert decay is not None
    assert values[120] == pytest.approx(decay * math.sin(110) + (1 - decay) * math.sin(120), abs=1e-6)
    assert values[129] == values[120] != values[130] and int(ema.steps) == 131
