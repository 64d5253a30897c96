"""Every test can import the helpers beside this file and those of the ops' tests, and starts from the same seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rddm_fast.images.picture import Picture, write_image

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "ops")]


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_choices_of_this_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user of this machine has measured decides nothing in the tests, and they leave nothing in the cache."""
    monkeypatch.setenv("RDDM_FAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's graphs are recorders of torch's ops on the CPU (`recorded_graphs`)."""
    from recorded_graphs import stand_in

    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model that restores; what it restores is clamped at twice the range."""
    from small_models import small_model

    from rddm_fast.models.folder import save_model

    folder = tmp_path_factory.mktemp("model")
    save_model(folder, small_model("pred_res", clip_res=2.0))
    return folder


@pytest.fixture
def dark_pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders, dark images and the truth: three pairs of different sizes."""
    for i, (height, width) in enumerate([(20, 30), (24, 24), (40, 18)]):
        target = torch.rand(3, height, width, generator=torch.Generator().manual_seed(i))
        write_image(tmp_path / "truth" / f"{i}.png", Picture(pixels=target))
        write_image(tmp_path / "dark" / f"{i}.png", Picture(pixels=target * 0.4))
    return tmp_path / "dark", tmp_path / "truth"
