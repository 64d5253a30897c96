"""A sampler as an ONNX file: onnxruntime makes the images of the published loop from it, whatever their size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import error_of, run, succeeded
from kinds import every_kind_of_model
from small_models import images, small_model

import rddm_fast
from rddm_fast import FastSampler, ResidualDiffusion
from rddm_fast.fast.export import ExportError
from rddm_fast.fast.to_onnx import export as to_onnx
from rddm_fast.models.folder import save_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(diffusion: ResidualDiffusion, path: Path, shape: tuple[int, ...]) -> float:
    """How far onnxruntime's images of three steps are from those of the readable loop at most."""
    torch.manual_seed(0)
    sampler = session(path)
    metadata = sampler.get_modelmeta().custom_metadata_map
    given = {"image": images(*shape), "noise": torch.randn(int(metadata["draws"]), *shape), "mask": images(*shape)}
    feeds = {name: given[name].numpy() for name in metadata["inputs"].split(",")}
    found = torch.from_numpy(sampler.run(["restored"], feeds)[0])
    restored = [given[name] if name in feeds else None for name in ("image", "mask")]
    options = {"batch_size": shape[0], "sampling_timesteps": 3, "draws": list(given["noise"])}
    wanted = diffusion.sample(*restored, **options)[-1].clamp(0, 1)
    assert found.shape == shape and wanted.std() > 0.01
    return float((found - wanted).abs().max())


@every_kind_of_model
def test_onnxruntime_makes_the_images_of_every_kind_of_model(options: dict[str, Any], tmp_path: Path) -> None:
    diffusion = small_model(dim=8, **options)
    found = to_onnx.export(diffusion, tmp_path / "sampler.onnx", steps=3)
    assert found is not None and found <= 1e-5
    assert difference(diffusion, tmp_path / "sampler.onnx", (2, 3, 18, 15)) <= 1e-4


def test_one_file_takes_any_size(tmp_path: Path) -> None:
    """Even a side that is shorter than the padding, which is then reflected more than once."""
    diffusion = small_model("pred_res", dim=8, padding_factor=16)
    to_onnx.export(diffusion, tmp_path / "sampler.onnx")
    for shape in ((1, 3, 1, 2), (3, 3, 5, 40), (1, 3, 32, 16)):
        assert difference(diffusion, tmp_path / "sampler.onnx", shape) <= 1e-5, shape


def test_the_command_writes_a_checked_file_with_metadata(tmp_path: Path) -> None:
    result = succeeded(run("export", "--model", "derain", "--steps", 2, "-o", tmp_path / "derain.onnx"))
    path = tmp_path / "derain.onnx"
    assert list(tmp_path.iterdir()) == [path]
    start, _, printed = result.stdout.replace("\n", " ").partition(" MB; in onnxruntime at most ")
    assert start.startswith(f"{path}: ") and start.endswith(f"{path.stat().st_size / 1e6:.1f}")
    assert float(printed.split()[0]) <= 1e-5
    onnx.checker.check_model(onnx.load(path), full_check=True)
    found = session(path).get_modelmeta().custom_metadata_map
    assert found == {
        "format": "rddm_fast sampler",
        "name": "derain",
        "licence": "Apache-2.0",
        "inputs": "image,noise",
        "channels": "3",
        "range": "0 to 1",
        "draws": "1",
        "steps": "2",
        "eta": "0",
        "objective": "pred_res",
        "left_to_caller": "",
        "rddm_fast": rddm_fast.__version__,
    }


def test_a_file_says_what_it_leaves_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "inpaint.onnx"
    told = succeeded(run("export", "--model", "inpaint", "-o", str(path), "--steps", "1"))
    assert "the file holds the network's steps alone; this package also fills holes, keeps known pixels" in " ".join(
        told.stderr.split()
    )
    found = session(path).get_modelmeta().custom_metadata_map
    assert found["left_to_caller"] == "fills holes, keeps known pixels"


def test_the_documented_lines_restore_a_picture(tmp_path: Path) -> None:
    """What docs/onnx.md shows, held against FastSampler."""
    text = (Path(__file__).parents[3] / "docs" / "onnx.md").read_text(encoding="utf-8")
    lines = text.partition("```python\n")[2].partition("```")[0]
    to_onnx.export(small_model("pred_res", dim=8), tmp_path / "derain.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (18, 15, 3), np.uint8)
    image_file = pytest.importorskip("PIL.Image")
    image_file.fromarray(pixels).save(tmp_path / "rainy.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        np.random.seed(0)
        exec(lines, {})
    np.random.seed(0)
    noise = torch.from_numpy(np.random.randn(1, 1, 3, 18, 15).astype(np.float32))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    wanted = FastSampler(small_model("pred_res", dim=8))(image, draws=list(noise))
    found = torch.from_numpy(np.array(image_file.open(tmp_path / "restored.png"))).permute(2, 0, 1)[None] / 255
    assert (found - wanted).abs().max() <= 0.5 / 255 + 1e-4


def test_a_file_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "TOLERANCE", 0.0)
    (tmp_path / "sampler.onnx").write_bytes(b"the old file")
    with pytest.raises(ExportError, match=r"differ from FastSampler's by \d\.\de-\d\d.*: the file was not written"):
        to_onnx.export(small_model(dim=8), tmp_path / "sampler.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old file"]


def test_without_onnxruntime_the_file_is_written_and_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = to_onnx.importlib.util.find_spec
    monkeypatch.setattr(to_onnx.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    save_model(tmp_path / "model", small_model(dim=8))
    result = succeeded(run("export", "--model", tmp_path / "model", "-o", tmp_path / "x.onnx"))
    assert "; not checked, because onnxruntime is not installed" in result.stdout.replace("\n", " ")
    assert (tmp_path / "x.onnx").stat().st_size > 10_000


def test_the_command_names_a_mistake(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model(dim=8))
    for name, options, sentence in [
        ("x.zip", (), "--output .*x.zip ends in neither .pt2 nor .onnx"),
        ("x.pt2", (), "a .pt2 file is for images of one size: pass --size"),
        ("x.onnx", ("--size", "16x16"), "--size is for .pt2 files; an ONNX file takes any number of images of any"),
        ("x.onnx", ("--batch", 2), "--batch is for .pt2 files"),
        ("x.onnx", ("--dtype", "bfloat16"), "--dtype is for .pt2 files"),
        ("x.onnx", ("--steps", 1001), "--steps must be between 1 and the schedule's 1000"),
        ("nowhere/x.onnx", (), "there is no folder .*nowhere"),
    ]:
        line = error_of(run("export", "--model", tmp_path / "model", "-o", tmp_path / name, *options))
        assert re.search(sentence, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
