"""Train the built-in models anew in a given time, as large as the machine allows.

    python -m rddm_fast.images.photographs photos --scale 4
    python -m benchmarks.models.train --photos photos --seconds 100 -o OUT [--models derain denoise ...]

Each model's preset is taken with this batch, patch and precision, and starts from the built-in weights where there are
some. A short run finds the speed; the steps are what fits into the time. A killed run resumes by the same command with
`--steps`, which it prints. Then measure with `python -m benchmarks.models --model-folder OUT/NAME/model`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rddm_fast.models.folder import built_in_models, load_model
from rddm_fast.training.from_settings import trainer_of
from rddm_fast.training.presets import PRESETS, preset
from rddm_fast.training.settings import RunSettings

TRIAL = 60
"""Steps of the run that finds the speed; the first half, in which kernels are compiled, does not count."""
MODELS = [name.removeprefix("photos-") for name in PRESETS if name.startswith("photos-")]


def settings_of(name: str, options: argparse.Namespace, steps: int) -> RunSettings:
    """The settings of a run of `steps` steps: the preset's, and what `options` change."""
    data: dict[str, Any] = {"photos": str(options.photos), "patch": options.patch}
    model = {"start_from": name} if name in built_in_models() and _fits(name) else {}
    train = {
        "steps": steps,
        "batch_size": options.batch,
        "lr": options.lr,
        "workers": options.workers,
        "precision": options.precision,
        "compile": options.compile,
        "save_every": 30.0,
        "log_every": 10,
    }
    return RunSettings.of(preset(f"photos-{name}"), {"model": model, "data": data, "train": train})


def _fits(name: str) -> bool:
    """Whether the built-in model has the networks of its preset, so that its weights can be the start."""
    network: Any = load_model(name).model.config
    wanted = preset(f"photos-{name}")["model"]
    return (network["dim"], list(network["dim_mults"])) == (wanted["dim"], wanted["mults"])


def images_per_second(name: str, options: argparse.Namespace) -> float:
    """Train for `TRIAL` steps and return the speed at their end."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(settings_of(name, options, TRIAL), folder)
        started, images = 0.0, 0
        for progress in trainer.run():
            if progress.step == TRIAL // 2:
                started = time.perf_counter()
            elif progress.step > TRIAL // 2:
                images += options.batch
        return images / (time.perf_counter() - started)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="these alone")
    parser.add_argument("--seconds", type=float, default=100.0, help="time for each model (default: 100)")
    parser.add_argument("--steps", type=int, help="steps of each model, in the place of --seconds")
    parser.add_argument("--batch", type=int, default=32, help="(default: 32)")
    parser.add_argument("--patch", type=int, default=128, help="side in pixels (default: 128)")
    parser.add_argument("--lr", type=float, default=4e-4, help="peak learning rate (default: 4e-4)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 2), help="processes that degrade")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args(argv)
    for name in options.models:
        steps, speed = options.steps, None
        if steps is None:
            speed = images_per_second(name, options)
            steps = max(TRIAL, int(speed * options.seconds / options.batch))
        print(f"{name}: {steps} steps of {options.batch}{f', {speed:.0f} images/s' if speed else ''}", flush=True)
        trainer = trainer_of(settings_of(name, options, steps), options.output / name)
        with trainer.alone():
            folder = trainer.train()
        size = (folder / "model.safetensors").stat().st_size
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        print(json.dumps({"model": name, "steps": steps, "device": device, "bytes": size}), flush=True)


if __name__ == "__main__":
    main()
