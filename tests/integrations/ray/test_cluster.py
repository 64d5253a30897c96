"""Restoring on a local Ray cluster of two workers, one of which is killed. `make test-cluster` installs Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from commands import error_of, run
from small_models import seeded, small_model

pytest.importorskip("ray")

import ray

from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.integrations.ray import restore_on_ray
from rddm_fast.models.folder import save_model
from rddm_fast.restoration.restore import Restorer

SIZES = ((20, 24), (24, 20), (40, 24))
SETTINGS: dict[str, Any] = {"steps": 15, "tile": 32, "overlap": 8}
"""Many steps, so that a picture takes long enough to be interrupted; the third size is restored in tiles."""


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """Ray's tasks reserve more CPUs than this machine may have; the work is little."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`in/` with 16 pictures of three sizes, a broken one and a text; `out/` has the result of one."""
    generator = seeded(0)
    for number in range(16):
        pixels = torch.rand(3, *SIZES[number % 3], generator=generator)
        write_image(tmp_path / "in" / f"{number % 2}" / f"{number}.png", Picture(pixels))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "in" / "notes.txt").write_text("no picture either")
    write_image(tmp_path / "out" / "0" / "0.png", Picture(torch.zeros(3, 8, 8)))
    return tmp_path


def samplers() -> list[psutil.Process]:
    """The processes of the actors that restore."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "MapWorker(MapBatches(Restore)" in " ".join(process.cmdline())
    ]


def test_a_worker_is_killed_and_every_file_is_restored_once(folder: Path) -> None:
    model, left_out = small_model("pred_res", clip_res=2.0), []
    outcomes = restore_on_ray(
        model, folder / "in", folder / "out", workers=2, batch=2, on_left_out=left_out.extend, **SETTINGS
    )
    seen = []
    for outcome in outcomes:
        seen.append(outcome)
        if outcome.error is None and not outcome.skipped:
            break
    killed = samplers()
    assert killed
    killed[0].kill()
    seen += outcomes

    # Every file has one outcome.
    sources = Counter(Path(outcome.source).name for outcome in seen)
    assert sources == Counter([f"{number}.png" for number in range(16)] + ["broken.png"])
    assert [outcome.source for outcome in seen if outcome.skipped] == [str(folder / "in" / "0" / "0.png")]
    failed = f"{folder / 'in' / 'broken.png'} is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image"
    assert [outcome.error for outcome in seen if outcome.error] == [failed]
    assert left_out == [str(folder / "in" / "notes.txt")]

    # Every result is whole, and what one machine makes of it; batches may round otherwise.
    restorer = Restorer(model, **SETTINGS)
    written = {path.name: path for path in (folder / "out").rglob("*") if path.is_file()}
    assert sorted(written) == sorted(f"{number}.png" for number in range(16))
    for number in (1, 2, 14, 15):
        expected = restorer(read_image(folder / "in" / f"{number % 2}" / f"{number}.png")).pixels
        assert (read_image(written[f"{number}.png"]).pixels - expected).abs().max() < 1.01 / 255


def test_the_command_resumes_and_tells(folder: Path) -> None:
    save_model(folder / "model", small_model("pred_res", clip_res=2.0))
    options = ("--model", folder / "model", "--steps", 1, "--on", "ray:local", "--workers", 1, "--output")
    first = run("restore", folder / "in", *options, folder / "out", "--json")
    assert first.exit_code == 1  # of broken.png
    *_, finished = map(json.loads, first.stdout.splitlines())
    assert finished == {"status": "finished", "restored": 15, "skipped": 1, "left_out": 1, "failed": 1}
    (folder / "in" / "broken.png").unlink()
    again = run("restore", folder / "in", *options, folder / "out")
    assert again.exit_code == 0 and "0 restored, 16 already in" in again.stdout


def test_errors_are_one_sentence(folder: Path) -> None:
    command = ("restore", folder / "in", "--output", folder / "other")
    on = ("--on", "ray:local")
    assert error_of(run(*command, "--on", "spark")).startswith("error: --on is 'spark': write ray://HOST:PORT, ")
    assert "--compare is not for --on" in error_of(run(*command, *on, "--compare"))
    assert "--workers and --batch are for --on" in error_of(run(*command, "--workers", 2))
    assert "this model takes a mask" in error_of(run(*command, *on, "--model", "inpaint"))
    assert "no machine of the cluster has a GPU" in error_of(run(*command, *on, "--quiet", "--device", "cuda"))
    assert "the memory of one process" in error_of(run("restore", "memory://in", "--output", folder / "o", *on))
