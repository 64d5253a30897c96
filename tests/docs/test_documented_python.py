"""The Python of the documentation runs: each page's blocks in order, with small pictures and small models."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import NOTEBOOK, PAGES, blocks
from small_models import images, published_model, small_model
from small_priors import small_prior

from rddm_fast.images.picture import Picture, write_image
from rddm_fast.models import folder
from rddm_fast.models.folder import save_model
from rddm_fast.ops import backends
from rddm_fast.restoration.files.outcome import Outcome

SIZES = {"rainy.jpg": (32, 24), "small.png": (8, 8), "clean.png": (16, 16)}
"""The pictures that pages read: height and width."""
FOLDERS = ("photos", "incoming", "rainy", "clean")
"""The folders of pictures that pages read."""
ELSEWHERE = {"docs/onnx.md": "tests/fast/exporting/test_to_onnx.py"}
"""Pages whose Python another test runs, and holds against what the package gives."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(name="at_work")
def _at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages read, as the working folder."""
    for name, size in SIZES.items():
        write_image(tmp_path / name, Picture(pixels=images(3, *size)))
    for name in FOLDERS:
        for i in range(2):
            write_image(tmp_path / name / f"{i}.png", Picture(pixels=images(3, 24, 24, seed=i)))
    model = published_model()
    weights = {f"ema_model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"step": 80_000, "model": model.state_dict(), "ema": weights}, tmp_path / "model-80.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in models are small ones of their kind."""
    small = {"derain": small_model("pred_res", dim=8), "prior-photos": small_prior()}
    load = folder.load_model
    monkeypatch.setattr(folder, "load_model", lambda model: small.get(model) or load(model))


@pytest.fixture
def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub without a network: one model in its cache, and uploads that go nowhere."""
    hub = pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    save_model(repository / "snapshots" / COMMIT, small_model(dim=8))
    shutil.copytree(repository / "snapshots" / COMMIT, tmp_path / "run" / "model")
    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(hub, "upload_folder", lambda **_: "https://huggingface.co/owner/name/commit/1")


def run(page: str) -> dict[str, Any]:
    """Run a page's blocks of Python in one namespace, and return it. A traceback names the page and its line."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, page, "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/experiments.md",
        "docs/tutorials/deploy.md",
        "docs/tutorials/inverse.md",
        "docs/tutorials/published-code.md",
        "docs/tutorials/restore.md",
    ],
)
@pytest.mark.usefixtures("at_work", "_small")
def test_the_page_runs(page: str) -> None:
    run(page)


def test_training_runs(at_work: Path) -> None:
    for package in ("accelerate", "yaml", "matplotlib"):
        pytest.importorskip(package)
    run("docs/tutorials/train.md")
    assert (at_work / "run" / "model" / "model.safetensors").exists()


@pytest.mark.usefixtures("at_work", "_hub", "_small")
def test_other_libraries_run() -> None:
    pytest.importorskip("diffusers")
    found = run("docs/tutorials/libraries.md")
    assert found["restored"].size == found["slower"].size == (24, 32)


@pytest.mark.usefixtures("at_work")
def test_the_kernels_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op that the page defines is gone afterwards."""
    monkeypatch.setattr(backends, "OPS", dict(backends.OPS))
    with torch.library._scoped_library("rddm_fast", "FRAGMENT") as library:
        monkeypatch.setattr(backends, "library", library)
        run("docs/tutorials/kernels.md")
        assert hasattr(torch.ops.rddm_fast, "residual_of")


@pytest.mark.usefixtures("at_work")
def test_the_notebook_restores_the_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("matplotlib", "torchmetrics"):
        pytest.importorskip(package)
    monkeypatch.setenv("MPLBACKEND", "agg")
    found = run(NOTEBOOK)
    before, after = (found["psnr"](found[name], found["truth"]).item() for name in ("rainy", "restored"))
    assert after > before + 8  # the built-in model gains 13 dB on the demo's photographs


def test_the_page_on_clusters_calls_what_there_is(
    at_work: Path, _small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster itself is tested in tests/integrations/ray (`make test-cluster`)."""
    from rddm_fast.integrations import ray

    signature = inspect.signature(ray.restore_on_ray)

    def stand_in(*arguments: Any, **named: Any) -> Iterator[Outcome]:
        yield Outcome(str(signature.bind(*arguments, **named).arguments["source"]))

    monkeypatch.setattr(ray, "restore_on_ray", stand_in)
    run("docs/cluster.md")
    assert capsys.readouterr().out == "s3://photos/rainy restored\n"


def test_every_page_with_python_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    with_python = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
    assert with_python and all(f'"{page}"' in source for page in with_python)


def test_blocks_state_their_language() -> None:
    assert {block.language for page in PAGES for block in blocks(page)} <= {"python", "sh", ""}
