"""`restore` where memory runs out, where a result's place is taken, and where a run was killed."""

import fcntl
import os
from pathlib import Path

import pytest
import torch
from commands import error_of, run, succeeded
from small_models import images, small_model

from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.models.folder import save_model
from rddm_fast.restoration.restore import Restorer, restore_files
from rddm_fast.system.memory import out_of_memory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, small_model("pred_res", dim=8, clip_res=2.0))
    return folder


def photo(path: Path, height: int = 16, width: int = 24) -> Path:
    write_image(path, Picture(pixels=images(3, height, width)))
    return path


class Limited(Restorer):
    """A restorer on a machine whose memory holds tiles of `most` pixels a side."""

    most = 100

    def __call__(self, picture, mask=None, advance=None):
        if self.tile is None or self.tile > self.most:
            torch.empty(1 << 60, dtype=torch.uint8)  # what torch's CPU allocator really raises
        return super().__call__(picture, mask, advance)


def test_smaller_tiles_where_memory_runs_out(tmp_path: Path) -> None:
    diffusion = small_model("pred_res", dim=8, clip_res=2.0)
    source = photo(tmp_path / "in" / "a.png", 200, 150)
    done = restore_files(Limited(diffusion, steps=1, tile=None), [source], tmp_path / "out")
    (outcome,) = done
    assert outcome.error is None
    assert outcome.note == "in tiles of 100: larger ones need more memory than there is"
    expected = Restorer(diffusion, steps=1, tile=100, overlap=16)(read_image(source)).pixels
    assert (read_image(tmp_path / "out" / "a.png").pixels - expected.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-5


def test_memory_that_never_suffices_is_one_files_outcome(tmp_path: Path) -> None:
    restorer = Limited(small_model("pred_res", dim=8, clip_res=2.0), steps=1)
    restorer.most = 0
    inputs = [photo(tmp_path / "in" / "a.png", 200, 150), tmp_path / "in" / "none.png"]
    errors = [outcome.error for outcome in restore_files(restorer, inputs, tmp_path / "out")]
    assert errors == [
        f"{inputs[1]} does not exist",
        f"{inputs[0]} needs more memory than there is: make it smaller",
    ]


def test_what_says_that_memory_ran_out() -> None:
    compiled = (
        'torch_call_dispatcher( "aten::empty_like", "", stack.data(), (0)) API call failed at stable/ops.h, line 46'
    )
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(compiled)):
        assert out_of_memory(error)
    for error in (
        RuntimeError("shapes differ"),
        ValueError("not enough memory"),
        RuntimeError("aten::add API call failed"),
    ):
        assert not out_of_memory(error)


def test_a_bug_is_named_and_shows_its_traceback_with_debug(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Restorer, *arguments: object) -> None:
        raise KeyError("a bug\nof two lines")

    monkeypatch.setattr(Restorer, "__call__", broken)
    arguments = ("restore", photo(tmp_path / "a.png"), "-m", model, "-o", tmp_path / "out")
    assert error_of(run(*arguments)).endswith("a.png was not restored: KeyError: 'a bug\\nof two lines'")
    debugged = run("--debug", *arguments)
    assert debugged.exit_code == 1 and "Traceback" in debugged.stderr and "in broken" in debugged.stderr


def test_what_is_no_result_does_not_count_as_one(model: Path, tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    (tmp_path / "out" / "b.png").touch()
    arguments = ("restore", tmp_path / "in", "-m", model, "-o", tmp_path / "out")
    result = run(*arguments)
    assert error_of(result).endswith(
        "a.png is a folder, where the result should be written: remove it or choose another output"
    )
    assert "2 restored, 1 failed" in result.stdout and (tmp_path / "out" / "b.png").stat().st_size > 0
    assert "2 already in" in run(*arguments).stdout


def test_an_output_inside_the_input_is_left_out_of_it(model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    arguments = ("restore", tmp_path / "in", "-m", model, "-o", tmp_path / "in" / "x" / "restored")
    succeeded(run(*arguments))
    photo(tmp_path / "in" / "x" / "b.png")
    assert "1 restored, 1 already in" in succeeded(run(*arguments)).stdout
    assert sorted(path.name for path in (tmp_path / "in" / "x" / "restored").rglob("*.png")) == ["a.png", "b.png"]


def test_a_folder_that_may_not_be_read_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "in" / "a.png")
    closed = tmp_path / "in" / "closed"
    photo(closed / "b.png")
    scandir = os.scandir

    def refusing(path: str) -> object:  # root may read every folder
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = run("restore", tmp_path / "in", "-m", model, "-o", tmp_path / "out")
    assert error_of(result) == f"error: {closed} cannot be read: Permission denied"
    assert "1 restored, 1 failed" in result.stdout


@pytest.mark.parametrize("name", ["n" * 300 + ".png", "n" * 251, "a\0.png"])
def test_an_impossible_name_is_one_files_outcome(name: str, model: Path, tmp_path: Path) -> None:
    if len(name) == 251:  # a file without a suffix, whose result would need four bytes more
        (tmp_path / (name + "nnnn")).write_bytes(photo(tmp_path / "b.png").read_bytes())
        name += "nnnn"
    inputs = [str(tmp_path / name), photo(tmp_path / "a.png")]
    restorer = Restorer(small_model("pred_res", dim=8, clip_res=2.0), steps=1)
    outcomes = list(restore_files(restorer, inputs, tmp_path / "out"))
    (error,) = [outcome.error for outcome in outcomes if outcome.error]
    assert len(outcomes) == 2 and ("File name too long" in error or "null byte" in error)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_a_killed_runs_unfinished_files_are_removed(model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    for name in (".a.png.abcd1234.png", ".a.png.running_.png", ".b.png.abcd1234.png", ".a.png.note.png"):
        (out / name).write_bytes(b"a part")
    with (out / ".a.png.running_.png").open("rb+") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        succeeded(run("restore", tmp_path / "in", "-m", model, "-o", out))
    left = sorted(path.name for path in out.iterdir())
    assert left == [".a.png.note.png", ".a.png.running_.png", ".b.png.abcd1234.png", "a.png"]
