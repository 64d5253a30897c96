"""Files of torch.save: tensors and plain values come back, all else is refused in one sentence."""

import functools
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rddm_fast.compat import Trainer
from rddm_fast.models.errors import ModelError
from rddm_fast.models.published import load_published
from rddm_fast.system.saved import NotOnlyTensors, load_saved
from rddm_fast.training.checkpoints import CheckpointError, RunFolder


class System:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


FOREIGN: dict[str, tuple[Any, str]] = {
    "a blocked module": (System(), r"(posix|nt)\.system"),
    "a function": (functools.partial(print), r"functools\.partial"),
    "numpy": (np.zeros(3), r"numpy\._?core\.multiarray\._reconstruct"),
    "a path": (Path("x"), r"pathlib\.\w+"),
    "a module": (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_more_than_tensors_is_named_in_one_sentence(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, spelled = FOREIGN[what]
    torch.save({"ema": content}, "m.pt")
    with pytest.raises(NotOnlyTensors) as raised:
        load_saved("m.pt")
    sentence = (
        rf"m\.pt holds more than tensors \({spelled}\) and is not loaded, because that could run code: save its state "
        "dicts alone, where you trust it"
    )
    assert re.fullmatch(sentence, str(raised.value)), raised.value
    assert not Path("pwned").exists()


def _published(path: Path) -> None:
    load_published(path, experiment="restoration")


def _resumed(path: Path) -> None:
    RunFolder(path.rename(path.parent / "checkpoint-00000001.pt").parent).latest()


def _compat(path: Path) -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.results_folder = path.rename(path.parent / "model-1.pt").parent
    trainer.device = torch.device("cpu")
    trainer.load(1)


@pytest.mark.parametrize(
    ("load", "error"), [(_published, ModelError), (_resumed, CheckpointError), (_compat, ValueError)]
)
def test_every_reader_refuses_it_in_that_sentence(load: Any, error: type[Exception], tmp_path: Path) -> None:
    torch.save({"ema": System(), "model": 1}, tmp_path / "m.pt")
    with pytest.raises(error, match=r"^[^\n]*\.pt holds more than tensors \((posix|nt)\.system\)[^\n]*$") as raised:
        load(tmp_path / "m.pt")
    assert "weights_only" not in str(raised.value) and "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [pickle.dumps({"ema": System()}), b"\x80\x02\x93.", b"\x80\x09.", b"\x80\x02", b"", b"hello"]
)
def test_other_pickles_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's on the pickle's protocol would stand between the sentences
        with pytest.raises(ModelError) as raised:
            load_published(tmp_path / "m.pt", experiment="restoration")
    beginning = f"{tmp_path / 'm.pt'} cannot be read as a checkpoint: it is damaged, or no file of torch.save ("
    assert str(raised.value).startswith(beginning) and "\x1b" not in str(raised.value)
    assert "weights_only" not in str(raised.value) and "\n" not in str(raised.value)
