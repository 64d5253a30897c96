"""The model card, README.md: what the Hub shows and searches, made of a model's config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..system.files import write_text_whole

FILE = "README.md"
MARK = (
    "<!-- This card was written by rddm_fast and is written again with the model. Remove this line to keep yours. -->"
)
UNNAMED = "OWNER/NAME"
"""Stands for the repository in the card of a model that was not pushed."""


def write_card(folder: Path, config: dict[str, Any], repository: str | None = None) -> None:
    """Write the card of the model in `folder`, unless there is one that somebody has written.

    Args:
        config: the content of its config.json.
        repository: "owner/name" on the Hub; None if it has none yet.
    """
    file = folder / FILE
    if not file.exists() or MARK in file.read_text(encoding="utf-8", errors="replace"):
        write_text_whole(file, card(config, repository or UNNAMED))


def card(config: dict[str, Any], repository: str) -> str:
    """Return the card: its metadata, what the model does, how it was made, its numbers and the lines that use it.

    `info` in the config says what is known: purpose ("removes rain"), licence (such as Apache-2.0), measured (on what,
    and the numbers before and after by the metric's name), training and converted_from. All else is read from the
    model's settings.
    """
    info = config.get("info", {})
    # A restorer of Cold Diffusion has none of these settings.
    restores = config.get("diffusion", {}).get("condition", True)
    measured = _object(info, "measured")
    metrics = {name: value for name, value in measured.items() if isinstance(value, (list, tuple)) and len(value) == 2}
    metadata = {
        "library_name": "rddm_fast",
        "pipeline_tag": "image-to-image" if restores else "unconditional-image-generation",
        "license": str(info.get("licence", "unknown")).lower(),  # as the Hub writes them
        "tags": ["rddm", "diffusion", "image-restoration" if restores else "image-generation"],
        **({"metrics": list(metrics)} if metrics else {}),
    }
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in metadata.items())  # JSON is YAML
    title = "An RDDM model" if repository == UNNAMED else repository
    parts = [f"---\n{front}\n---", MARK, f"# {title}", _about(config, info, restores)]
    if metrics:
        rows = "\n".join(f"| {name.upper()} | {before} | {after} |" for name, (before, after) in metrics.items())
        parts.append(f"Measured on {measured.get('on', 'data that this card does not name')}:")
        parts.append(f"| metric | degraded | restored |\n|---|---|---|\n{rows}")
    parts.append(f"```python\n{_use(config, f'hub:{repository}', restores)}\n```")
    return "\n\n".join(parts) + "\n"


def _object(info: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an entry of `info`, in which users write what they like, if it is a JSON object."""
    value = info.get(name)
    return value if isinstance(value, dict) else {}


def _about(config: dict[str, Any], info: dict[str, Any], restores: bool) -> str:
    if "degradation" in config:
        what = f"A restorer of Cold Diffusion that undoes {config['degradation'].get('name', 'its degradation')}"
    else:
        purpose = info.get("purpose", "restores degraded images" if restores else "generates images")
        what = f"A residual denoising diffusion model: {purpose}"
    sentences = [f"{what}. It is for `rddm_fast` (`pip install 'rddm_fast[models,images,hub]'`)."]
    if "diffusion" in config:
        sentences.append(f"It takes {config['diffusion']['sampling_timesteps']} steps by default.")
    if "trained_steps" in _object(info, "training"):
        sentences.append(f"It was trained for {info['training']['trained_steps']} steps; config.json has the settings.")
    if "converted_from" in info:
        sentences.append(f"It was converted from {info['converted_from']}.")
    return "\n".join(sentences)


def _use(config: dict[str, Any], name: str, restores: bool) -> str:
    """Return the lines of Python that use the model."""
    if "degradation" in config:
        return f"""\
from rddm_fast.images import read_image, write_image
from rddm_fast.models.folder import load_cold_restorer
from rddm_fast.restoration.cold import ColdPictureRestorer

restorer = ColdPictureRestorer(load_cold_restorer("{name}"))
write_image("restored.png", restorer(read_image("degraded.png")))"""
    if not restores:
        return f"""\
from rddm_fast import FastSampler, load_model
from rddm_fast.images import Picture, write_image

sampler = FastSampler(load_model("{name}"))
for number, image in enumerate(sampler(batch_size=4)):
    write_image(f"{{number}}.png", Picture(pixels=image))"""
    mask = ', read_image("mask.png").pixels[None]' if config["diffusion"]["input_condition"] else ""
    return f"""\
from rddm_fast import FastSampler, load_model
from rddm_fast.images import read_image, write_image

picture = read_image("degraded.png")
sampler = FastSampler(load_model("{name}"))
restored = sampler(picture.pixels[None]{mask})[0]  # (C, H, W) in [0, 1]
write_image("restored.png", picture.with_pixels(restored))"""
