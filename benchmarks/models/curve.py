"""How a built-in model came to its weights: what each checkpoint of its training does to photographs held aside.

    rddm-fast train --preset photos-derain --photos photos --set train.keep=100 --output RUN
    python -m benchmarks.models.curve derain RUN --photos held [-o benchmarks/results/models]

The averaged weights of the checkpoints, and those that the run started from, restore every third photograph. OUTPUT
gets curves/NAME.json, and `python -m benchmarks.models` writes it below the model's table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rddm_fast.images.degradations.degraded import to_tensor
from rddm_fast.images.degrade import WITH_MASK
from rddm_fast.images.find import find_images
from rddm_fast.images.picture import read_image
from rddm_fast.restoration.metrics import psnr
from rddm_fast.restoration.restore import Restorer
from rddm_fast.system.files import write_text_whole
from rddm_fast.system.saved import load_saved
from rddm_fast.training.checkpoints import RunFolder
from rddm_fast.training.from_settings import model_of
from rddm_fast.training.settings import RunSettings, read_settings

from ..timing import conditions
from .cases import CASES
from .measure import EVERY, degraded_by, restored

FOLDER = "curves"
"""Of the results that holds the curves."""


def curve(model: str, run: Path, photographs: Mapping[str, Tensor], most: int = 12) -> dict[str, Any]:
    """Measure the checkpoints of a training, and print a line for each.

    Args:
        model: the built-in model whose cases are measured, a name in `CASES`.
        run: folder of the run. A run that started from a model is measured at its start, step 0, too.
        photographs: (3, H, W) in [0, 1] by name.
        most: of more checkpoints this many are measured, evenly spaced and the last among them.

    Returns:
        `steps`: of the checkpoints. `psnr`: by case the mean PSNR in dB of "input", and of "model" at each of `steps`.

    Raises:
        ValueError: `run` has no checkpoint.
        SettingsError: it has no settings, or wrong ones.
    """
    settings = RunSettings.of(read_settings(run / "settings.json"))
    kind = settings.data.degradation
    diffusion: Any = model_of(settings.model, kind in WITH_MASK, settings.data.side, kind)
    paths = RunFolder(run).checkpoints()
    if not paths:
        raise ValueError(f"{run} has no checkpoint: pass the folder that rddm-fast train wrote (its --output)")
    chosen = sorted({round(place) for place in np.linspace(len(paths) - 1, 0, min(most, len(paths)))})
    states: list[Path | None] = [paths[place] for place in chosen]
    if settings.model.start_from is not None:
        states.insert(0, None)

    pictures = {
        case.name: [(degraded_by(case, truth, name), truth) for name, truth in photographs.items()]
        for case in CASES[model]
    }
    before = {
        case: float(np.mean([psnr(to_tensor(degraded.image), truth) for degraded, truth in found]))
        for case, found in pictures.items()
    }
    steps: list[int] = []
    after: dict[str, list[float]] = {case: [] for case in pictures}
    for path in states:
        steps.append(0 if path is None else _load(diffusion, path))
        restorer = Restorer(diffusion, tile=None)
        for case, found in pictures.items():
            values = [float(psnr(restored(restorer, degraded), truth)) for degraded, truth in found]
            after[case].append(float(np.mean(values)))
        print(
            f"{steps[-1]} steps:", ", ".join(f"{case} {values[-1]:.2f}" for case, values in after.items()), flush=True
        )
    return {"steps": steps, "psnr": {case: {"input": before[case], "model": after[case]} for case in pictures}}


def _load(diffusion: Any, checkpoint: Path) -> int:
    """Load the averaged weights of a checkpoint and return its step."""
    state = load_saved(checkpoint)
    prefix = "module."
    averaged = {name: value for name, value in state["ema"].items() if name.startswith(prefix)}
    diffusion.load_state_dict({name.removeprefix(prefix): value for name, value in averaged.items()})
    return int(state["step"])


def told(found: Mapping[str, Any]) -> str:
    """The curve as a paragraph in Markdown."""
    cases = []
    for case, values in found["psnr"].items():
        after = ", ".join(f"{value:.2f}" for value in values["model"])
        cases.append(f"{case} (input {values['input']:.2f}) {after}")
    steps = ", ".join(str(step) for step in found["steps"])
    return f"In its last training, after {steps} steps, PSNR in dB on every third photograph: {'; '.join(cases)}."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(CASES), metavar="MODEL", help="the built-in model that the run trained")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run, with its checkpoints")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs that no training has seen")
    parser.add_argument("--most", type=int, default=12, help="checkpoints to measure, evenly spaced (default: 12)")
    parser.add_argument("-o", "--output", type=Path, default=Path("models"), help="folder (default: models)")
    options = parser.parse_args(argv)
    photographs = {path.stem: read_image(path).pixels for path in find_images(options.photos)[::EVERY]}
    found = {**conditions("cpu"), **curve(options.model, options.run, photographs, options.most)}
    folder = options.output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / f"{options.model}.json", json.dumps(found, indent=1) + "\n")
    print(told(found))


if __name__ == "__main__":
    main()
