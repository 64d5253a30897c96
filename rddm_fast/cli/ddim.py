"""`rddm-fast ddim`: the published conversion of a pretrained DDIM to RDDM (experiment "ddim-conversion", folder 1)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..system.files import write_text_whole
from .common.app import Device, Where, command, device_of, out
from .common.progress import progress_bar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..diffusion.noise_network import NoiseDiffusion
    from ..theory.steps import Step

NOT_COMPARED = ("model", "images")
"""Settings of a run that the next run into the same folder may change: they do not change an image."""


@command
def ddim(
    folder: Annotated[
        Path, typer.Argument(help="A DDIM or DDPM pipeline of diffusers, saved as a folder.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for 0.png, 1.png, …; the settings go beside it, as .json.")
    ],
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 10,
    to_rddm: Annotated[
        bool, typer.Option("--to-rddm/--no-to-rddm", help="Take RDDM's step, or DDIM's as diffusers does.")
    ] = True,
    adjust_alpha: Annotated[
        bool, typer.Option("--adjust-alpha", help="Follow another alpha_bar than the trained one; see --schedule.")
    ] = False,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Of --adjust-alpha: increased P(x,a), decreased P(1-x,a), average or normal; default: decreased."
        ),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Of --adjust-alpha: the exponent a; default: 1.")] = None,
    eta: Annotated[float, typer.Option(help="Factor on the deviation of DDIM's noise, 0 to 1.")] = 0.0,
    images: Annotated[int, typer.Option(help="Number of images.")] = 50000,
    batch: Annotated[int, typer.Option(help="Images per batch.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 10,
    device: Where = Device.auto,
) -> None:
    """Generate numbered images with a pretrained DDIM, by its own steps or by RDDM's.

    The noise of a batch depends on --seed and the batch's number alone. The same command resumes an interrupted run,
    which ends with the files of an uninterrupted one. A file is written whole or not at all.
    """
    from ..models.from_diffusers import from_diffusers

    settings: dict[str, Any] = {"steps": steps, "to_rddm": to_rddm, "adjust_alpha": adjust_alpha}
    settings.update(_readjusting(adjust_alpha, to_rddm, schedule, ratio))
    settings.update(eta=eta, batch=batch, seed=seed)
    _check_numbers(settings, images)
    model = from_diffusers(folder, "ddim")
    if steps > model.num_timesteps:
        raise ValueError(f"--steps must be between 1 and the {model.num_timesteps} of {folder}, not {steps}")
    if model.channels not in (1, 3):
        raise ValueError(f"{folder} makes images of {model.channels} channels: only 1 or 3 can be written as PNG")
    walked = steps_of(model, settings)
    settings.update(weights=_digest(model, folder), model=str(folder.resolve()), images=images)
    settings_file = _claim(output, settings)

    model.to(device_of(device))
    written = 0
    with progress_bar() as bar:
        done = bar.add_task(escape(output.name), total=images)
        within = bar.add_task("steps", total=steps)

        def watched(steps: Sequence[Step]) -> Iterator[Step]:
            for number, step in enumerate(steps):
                bar.update(within, completed=number)
                yield step

        for number in range(math.ceil(images / batch)):
            wanted = range(number * batch, min((number + 1) * batch, images))
            missing = [i for i in wanted if not (output / f"{i}.png").exists()]
            if missing:
                # Generate the whole batch: an image's rounding may depend on the others beside it.
                made = images_of_batch(model, walked, number, batch, seed, len(wanted), progress=watched)
                for i in missing:
                    _write(output / f"{i}.png", made[i - wanted.start])
            written += len(missing)
            bar.update(done, completed=wanted.stop)
    out.print(escape(f"{written} written, {images - written} already in {output}; settings: {settings_file}"))


def _readjusting(adjust_alpha: bool, to_rddm: bool, schedule: str | None, ratio: float | None) -> dict[str, Any]:
    """Check the options of --adjust-alpha; return its schedule and ratio, both None without it."""
    from ..theory.families import SHAPES

    if not adjust_alpha:
        for name, value in (("--schedule", schedule), ("--ratio", ratio)):
            if value is not None:
                raise ValueError(f"{name} is for --adjust-alpha: add --adjust-alpha, or leave {name} out")
        return {"schedule": None, "ratio": None}
    if not to_rddm:
        raise ValueError("--adjust-alpha changes RDDM's step: leave it out, or leave --no-to-rddm out")
    schedule, ratio = schedule or "decreased", 1.0 if ratio is None else ratio
    if schedule not in SHAPES:
        raise ValueError(f"--schedule is {schedule!r}: choose one of {', '.join(SHAPES)}")
    if not 0 <= ratio < math.inf:
        raise ValueError(f"--ratio must be a number of at least 0, not {ratio:g}")
    return {"schedule": schedule, "ratio": ratio}


def _check_numbers(settings: dict[str, Any], images: int) -> None:
    for name, value, least in (
        ("steps", settings["steps"], 1),
        ("images", images, 1),
        ("batch", settings["batch"], 1),
        ("seed", settings["seed"], 0),
    ):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, not {value}")
    if not 0 <= settings["eta"] <= 1:
        raise ValueError(f"--eta must be between 0 (no noise) and 1, not {settings['eta']:g}")


def steps_of(model: NoiseDiffusion, settings: dict[str, Any]) -> list[Step]:
    """Make the reverse steps of these settings, for a model that `from_diffusers(folder, "ddim")` loaded.

    RDDM's steps visit the indices that DDIM's do, with DDIM's variance. As published, the last one leads to the clean
    image even where the scheduler's set_alpha_to_one is false.
    """
    from ..theory.ddim import ddim_steps, readjusted_alpha

    if not settings["to_rddm"]:
        return model.steps(settings["steps"], settings["eta"])
    followed = None
    if settings["adjust_alpha"]:
        followed = readjusted_alpha(model.schedule, settings["schedule"], settings["ratio"])
    options = {**model.options, "form": "rddm", "set_alpha_to_one": True, "readjusted": followed}
    return ddim_steps(model.schedule, settings["steps"], settings["eta"], **options)


def generator_of_batch(seed: int, number: int) -> torch.Generator:
    """Make the generator of a batch's noise, on the CPU: the same noise for every device."""
    import numpy as np
    import torch

    state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def images_of_batch(
    model: NoiseDiffusion, steps: Sequence[Step], number: int, batch: int, seed: int, count: int, **options: Any
) -> Tensor:
    """Generate the first `count` images of a batch, (count, C, H, W) in [0, 1], not clamped.

    The noise is drawn for all `batch` images, so that it does not depend on `count`. `options` are those of `sample`.
    """
    import torch

    generator = generator_of_batch(seed, number)
    side = model.image_size
    assert side is not None

    def draws() -> Iterable[Tensor]:
        while True:
            yield torch.randn(batch, model.channels, side, side, generator=generator)[:count]

    return model.sample(batch_size=count, steps=steps, draws=draws(), **options)[-1]


def _write(path: Path, image: Tensor) -> None:
    """Write an image (C, H, W) in [0, 1] as PNG, grey if C is 1."""
    from ..images.picture import Picture, write_image

    write_image(path, Picture(image.expand(3, -1, -1), grey=len(image) == 1))


def _digest(model: NoiseDiffusion, folder: Path) -> str:
    """Return a hash of everything that the images depend on in the folder: the weights and the two configurations."""
    import torch

    found = hashlib.sha256()
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        found.update((folder / name).read_bytes())
    for name, values in model.model.state_dict().items():
        found.update(name.encode())
        found.update(values.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _claim(output: Path, settings: dict[str, Any]) -> Path:
    """Make the folder and write the settings beside it; return their file.

    Raises:
        ValueError: the folder holds files of a run with other settings, or of no run of this command.
    """
    output = output.resolve()
    file = output.parent / f"{output.name}.json"
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: --output is a folder")
    if output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            before = None
        if not isinstance(before, dict) or "weights" not in before:
            raise ValueError(f"{output} holds files, but {file} no settings of theirs: choose another --output")
        if before["weights"] != settings["weights"]:
            raise ValueError(f"{output} was made with another model than {settings['model']}: choose another --output")
        for name in (name for name in settings if name not in NOT_COMPARED):
            if before.get(name) != settings[name]:
                was, now = _spelled(name, before.get(name)), _spelled(name, settings[name])
                raise ValueError(f"{output} was made with {was}, not with {now}: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    write_text_whole(file, json.dumps(settings, indent=1) + "\n")
    return file


def _spelled(name: str, value: Any) -> str:
    """Return a setting as the command line has it."""
    option = "--" + name.replace("_", "-")
    if name == "to_rddm":
        return option if value else "--no-to-rddm"
    if value is None or value is False:
        return f"no {option}"
    return option if value is True else f"{option} {value}"
