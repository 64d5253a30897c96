"""Settings: how they are read, and what a mistake in them says."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from commands import run

from rddm_fast.training.presets import preset
from rddm_fast.training.settings import (
    ModelSettings,
    RunSettings,
    SettingsError,
    TrainSettings,
    read_settings,
    setting_of,
)


def test_the_rate_without_a_warmup_and_after_the_end() -> None:
    assert TrainSettings(steps=10, warmup=0).lr_at(0) == 1.0
    assert TrainSettings(steps=10, warmup=0).lr_at(5) == pytest.approx(0.5)
    assert TrainSettings(steps=10, warmup=2).lr_at(25) == pytest.approx(0.0)
    assert TrainSettings(steps=10, warmup=10).lr_at(9) == 1.0


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    settings = TrainSettings(steps=1100, warmup=100)
    at = [settings.lr_at(step) for step in (0, 49, 99, 100, 600, 1100)]
    assert at == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        ("train", {"optimizer": "sgd"}, "train.optimizer is 'sgd': choose one of adam, adamw, radam"),
        ("train", {"stepz": 3}, "there is no setting train.stepz: choose one of steps, batch_size"),
        ("train", {"steps": "many"}, "train.steps is 'many': it must be a whole number"),
        ("train", {"steps": 2.5}, "train.steps is 2.5: it must be a whole number"),
        ("train", {"steps": True}, "train.steps is True: it must be a whole number"),
        ("train", {"steps": 0}, "train.steps is 0: it must be at least 1"),
        ("train", {"lr": "fast"}, "train.lr is 'fast': it must be a number"),
        ("train", {"lr": float("nan")}, "train.lr is nan: it must be a number"),
        ("train", {"lr": 10**400}, "train.lr is a number of 1329 bits: it must be a number"),
        (
            "train",
            {"steps": 10**5000},
            "train.steps is a number of 16610 bits: it must be a whole number of at most 64",
        ),
        (
            "train",
            {"steps": 10**9, "batch_size": 10**9, "accumulate": 10},
            "train.steps times batch_size times accumulate is more than 2^63",
        ),
        ("train", {"seed": 1 << 62}, "train.seed is 4611686018427387904: it must be between 0 and 4294967295"),
        ("train", {"workers": 1 << 62}, "train.workers is 4611686018427387904: it must be between 0 and 1000"),
        ("train", {"betas": [0.9, float("nan")]}, "train.betas is nan: it must be a number"),
        ("model", {"clip_res": float("nan")}, "model.clip_res is nan: it must be a number"),
        ("train", {"lam": 1.5}, "train.lam is 1.5: it must be between 0 and 1"),
        ("train", {"betas": 0.9}, "train.betas is 0.9: write a list"),
        ("train", {"betas": [0.9]}, "train.betas has 1 numbers: it takes 2"),
        ("train", {"compile": "yes"}, "train.compile is 'yes': it must be true or false"),
        ("train", {"save_every": -1}, "train.save_every is -1.0: it is seconds"),
        ("model", {"kind": "dream"}, "model.kind is 'dream': choose one of restore, translate, generate"),
        ("model", {"mults": []}, "model.mults is []: write whole numbers"),
        ("model", {"mults": ["x"]}, "model.mults is 'x': it must be a whole number"),
        ("model", None, "model is None: it must be a section of names and values"),
        ("data", {"patch": 0}, "data.patch is 0: it must be at least 8"),
        ("dada", {}, "there is no section 'dada': choose one of model, data, train"),
    ],
)
def test_a_mistake_is_one_sentence(section: str, values: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)) as raised:
        RunSettings.of({section: values})
    assert "\n" not in str(raised.value)


def test_python_s_settings_are_checked_too() -> None:
    with pytest.raises(SettingsError, match=r"train\.optimizers is 'both': choose one of one, each"):
        TrainSettings(optimizers="both")  # type: ignore[arg-type]
    assert TrainSettings(lr=1).lr == 1.0 and ModelSettings(mults=[1, 2]).mults == (1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_is_written_is_read_again(form: str, tmp_path: Path) -> None:
    settings = RunSettings.of(preset("inpainting"), {"train": {"lr": 8e-05}})
    path = tmp_path / f"run.{form}"
    path.write_text(settings.text(form))
    assert RunSettings.of(read_settings(path)) == settings


def test_a_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 4e-4 as a text."""
    (tmp_path / "run.yaml").write_text("train: {lr: 4e-4}\n")
    assert RunSettings.of(read_settings(tmp_path / "run.yaml")).train.lr == 4e-4


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("none.yaml", None, "none.yaml cannot be read"),
        ("bad.yaml", "train: {}\nmodel: [", "bad.yaml, line 2: not YAML: expected the node content"),
        ("date.yaml", "train: {lr: 2001-99-99}", "date.yaml is not YAML: month must be in 1..12"),
        ("deep.yaml", "[" * 10_000, "deep.yaml is not YAML: maximum recursion depth exceeded"),
        ("latin.yaml", b"train: {}\n# \xe9", "latin.yaml, line 2: not UTF-8 text"),
        ("bad.json", "{\n,", "bad.json, line 2: not JSON"),
        ("deep.json", "[" * 100_000, "deep.json is not understood: maximum recursion depth exceeded"),
        ("long.json", '{"train": ' + "1" * 5000 + "}", "long.json is not understood: Exceeds the limit"),
        ("list.yaml", "- 1\n", "list.yaml holds no settings: write sections such as 'train:'"),
    ],
)
def test_a_bad_file_is_named(name: str, text: str | bytes | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=re.escape(sentence)) as raised:
        read_settings(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert name in run("train", "--config", tmp_path / name, "--dry-run").stderr


def test_a_checkpoint_without_a_younger_setting_was_trained_with_its_default() -> None:
    before = asdict(TrainSettings(steps=7))
    del before["at_start"]
    assert TrainSettings(steps=7).changed(before) == []
    assert TrainSettings(steps=7, at_start=0.5).changed(before) == ["at_start"]


def test_a_setting_of_the_command_line() -> None:
    assert setting_of("train.warmup=10") == {"train": {"warmup": 10}}
    assert setting_of("model.mults=[1, 2]") == {"model": {"mults": [1, 2]}}
    with pytest.raises(SettingsError, match=r"'warmup=10' is not a setting: write SECTION\.NAME=VALUE"):
        setting_of("warmup=10")
    with pytest.raises(SettingsError, match=r"the value of train\.lr, line 1: not YAML: found undefined alias 'x'"):
        setting_of("train.lr=*x")


def test_a_sentence_does_not_grow_with_the_value(tmp_path: Path) -> None:
    """Nine lists of nine references to the one before: 300 bytes whose value is written in gigabytes."""
    lines = [
        "a: &a [x]",
        *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\nmodel: *i\n")
    with pytest.raises(SettingsError, match="there is no section 'a'"):
        RunSettings.of(read_settings(tmp_path / "bomb.yaml"))
    bomb = read_settings(tmp_path / "bomb.yaml")["i"]
    for layer in ({"model": bomb}, {"model": {"dim": bomb}}, {"model": {"x" * 5000: 1}}, {"x\n" * 5000: {}}):
        with pytest.raises(SettingsError) as raised:
            RunSettings.of(layer)
        assert len(str(raised.value)) < 700 and "\n" not in str(raised.value)


def test_a_preset_that_is_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("preset: [deraining]\n")
    result = run("train", "--config", tmp_path / "run.yaml", "--dry-run")
    assert result.exit_code == 1 and "error: there is no preset ['deraining']: choose one of deraining" in result.stderr
