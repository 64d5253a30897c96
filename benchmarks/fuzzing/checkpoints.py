"""Published checkpoints: `load_published` of .pt files of changed structure, types, shapes and bytes, and with code."""

from __future__ import annotations

import functools
import io
import os
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rddm_fast.models.errors import ModelError
from rddm_fast.models.published import load_published

from . import models, mutate
from .contract import Found, kept

KINDS = 12


class Code:
    """Unpickled, it would run a command, which leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


@functools.cache
def _whole(kind: int) -> tuple[dict[str, Any], str]:
    """Return what the published trainer saves of a small model, and its objective."""
    torch.manual_seed(kind)
    diffusion = models.small(random.Random(kind))
    online = dict(diffusion.state_dict())
    ema: dict[str, Any] = {"initted": torch.tensor([1.0]), "step": torch.tensor([8])}
    ema |= {f"online_model.{name}": value for name, value in online.items()}
    ema |= {f"ema_model.{name}": value for name, value in online.items()}
    first = torch.zeros(3)
    optimiser = {"state": {0: {"step": torch.tensor(8.0), "exp_avg": first}}, "param_groups": [{"lr": 8e-5}]}
    opts = {"opt": optimiser} if kind % 2 else {"opt0": optimiser, "opt1": optimiser}
    return {"step": 80, "model": online, **opts, "ema": ema, "scaler": None}, diffusion.objective.name


def call(rng: random.Random, folder: Path) -> Found:
    """Load a checkpoint that is made in `folder`, and sample an image if that works."""
    content, objective = _whole(rng.randrange(KINDS))
    how = rng.choice(("values", "tensors", "tensors", "entries", "code", "bytes", "nothing", "whole"))
    path, escaped = folder / "model-1.pt", folder / "escaped"
    weights = "model" if rng.random() < 0.2 else "ema"
    if how == "values":
        content = mutate.of_value(rng, {**content, "model": dict.fromkeys(content["model"], 1)})
    elif how == "tensors":
        content = {**content, weights: _with_other_tensors(rng, content[weights])}
    elif how == "entries":
        content = {**content, weights: _with_other_entries(rng, content[weights])}
    elif how == "code":
        content = {**content, rng.choice(list(content)): rng.choice((Code(escaped), [Code(escaped)], print, Path))}
    elif how == "nothing":
        content = {"ema": mutate.drawn(rng), "model": mutate.drawn(rng)} if rng.random() < 0.7 else mutate.drawn(rng)
    path.write_bytes(_saved(rng, content))
    if how == "bytes":
        path.write_bytes(mutate.of_bytes(rng, path.read_bytes(), [b"not a checkpoint"]))

    arguments: dict[str, Any] = {
        "condition": rng.choice((True, False)) if rng.random() < 0.3 else None,
        "self_condition": rng.choice((None, None, True)),
        "experiment": rng.choice((None, None, "restoration", "diffuir", 6)),
        "objective": rng.choice((objective, objective, "pred_x0")),
    }
    if arguments["experiment"] is None:
        arguments |= {"path_independent": False, "official_two_pass": False}

    def load_and_use() -> None:
        try:
            models.use(load_published(path, weights=weights, image_size=8, **arguments))
        finally:
            assert not escaped.exists(), "the file's code was run"

    return kept(how, load_and_use, (ModelError, ValueError))


def _saved(rng: random.Random, content: Any) -> bytes:
    buffer = io.BytesIO()
    if rng.random() < 0.05:
        pickle.dump(content, buffer)
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.9)
    return buffer.getvalue()


def _with_other_tensors(rng: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """Replace one to three tensors by ones of other shapes, dtypes and layouts, or by no tensor."""
    state = dict(state)
    for name in rng.sample(list(state), rng.choice((1, 1, 2, 3))):
        t = state[name]
        if isinstance(t, Tensor):
            state[name] = _other(rng, t)
    return state


def _other(rng: random.Random, t: Tensor) -> Any:
    how = rng.randrange(10)
    if how == 0:
        return t.to(rng.choice((torch.int8, torch.float64, torch.float16, torch.bool, torch.complex64, torch.int64)))
    if how == 1 and t.ndim:
        return t.narrow(rng.randrange(t.ndim), 0, 0)
    if how == 2 and t.ndim:
        return t.repeat_interleave(2, rng.randrange(t.ndim))
    if how == 3:
        return t[None] if rng.random() < 0.5 else t.flatten()
    if how == 4:
        return torch.full_like(t.float(), rng.choice((float("nan"), float("inf"), 0.0, -1.0, 1e30)))
    if how == 5 and t.ndim:
        return t.float().to_sparse()
    if how == 6 and t.ndim:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch will do without them one day; files that have them will stay
            return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)
    if how == 7:
        return torch.empty_like(t, device="meta")
    if how == 8:
        return torch.zeros(1, dtype=t.dtype).expand(rng.choice(((1 << 40,), (0,), (1,) * 9, tuple(t.shape))))
    return rng.choice(mutate.VALUES)


def _with_other_entries(rng: random.Random, state: dict[str, Any]) -> dict[Any, Any]:
    """Drop, rename and add one to three entries."""
    changed: dict[Any, Any] = dict(state)
    for name in rng.sample(list(state), rng.choice((1, 1, 2, 3))):
        how = rng.randrange(5)
        if name not in changed:
            continue  # dropped or renamed meanwhile
        value = changed.pop(name)
        if how == 1:
            changed[rng.choice((name + "x", "ema_model." + name, name.replace("unet0", "unet7"), 5, None, b"x"))] = (
                value
            )
        elif how == 2:
            changed |= {name: value, rng.choice(("ema_model.x", "ema_model.model.unet0.x\n", 7, (1, 2))): value}
        elif how == 3:
            prefix = name.rpartition(".")[0]
            changed = {key: v for key, v in changed.items() if not str(key).startswith(prefix)}
        elif how == 4:
            prefix = rng.choice(("module.", "_orig_mod.", "module.module."))
            changed = {prefix + str(key): v for key, v in (changed | {name: value}).items()}
    return changed
