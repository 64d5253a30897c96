"""Model folders: `load_model` of one whose config.json was changed or made up, and an image of what it loads."""

from __future__ import annotations

import functools
import json
import random
import tempfile
from pathlib import Path

import torch

from rddm_fast.models.errors import ModelError
from rddm_fast.models.folder import load_model, save_model

from . import models, mutate
from .contract import Found, kept

KINDS = 12


@functools.cache
def _whole(kind: int) -> tuple[bytes, bytes]:
    """Return config.json and model.safetensors of a small model; `kind` draws which."""
    torch.manual_seed(kind)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, models.small(random.Random(kind)), info={"task": "fuzz"})
        return (Path(folder) / "config.json").read_bytes(), (Path(folder) / "model.safetensors").read_bytes()


def call(rng: random.Random, folder: Path) -> Found:
    """Load a model folder that is made in `folder`, and sample an image if that works."""
    config, weights = _whole(rng.randrange(KINDS))
    how = rng.choice(("values", "values", "values", "text", "nothing", "weights"))
    if how == "values":
        config = json.dumps(mutate.of_value(rng, json.loads(config))).encode()
    elif how == "text":
        config = mutate.of_bytes(rng, config, [b"[" * 100_000, b'{"a":' * 100_000])
    elif how == "nothing":
        config = json.dumps(mutate.drawn(rng)).encode()
    else:
        weights = mutate.of_bytes(rng, weights)
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    # A model may be loaded that lacks what an image needs, such as a size to generate; its own sentence says so.
    return kept(how, lambda: models.use(load_model(folder)), (ModelError, ValueError))
