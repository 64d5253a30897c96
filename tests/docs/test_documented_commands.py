"""Every command in the documentation is one that the command line takes. None is run."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import pytest
import typer.main
from pages import PAGES, ROOT, inline_code, shell_commands

from rddm_fast.benchmarks.__main__ import BENCHMARKS
from rddm_fast.cli import app

GROUP = typer.main.get_command(app)


class Parsed(Exception):
    """A benchmark has read its options."""


def parse_benchmark(monkeypatch: pytest.MonkeyPatch, name: str, *options: str) -> None:
    """Read a benchmark's options as it does itself, and stop there. Wrong ones are a SystemExit of code 2."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, arguments: Any = None, namespace: Any = None) -> None:
        parse(self, arguments, namespace)
        raise Parsed

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        with pytest.raises(Parsed):
            importlib.import_module(f"rddm_fast.benchmarks.{BENCHMARKS[name][0]}").main([*options])


@pytest.fixture(name="parse")
def _parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Reads the words after `rddm-fast` as the command line does. Wrong ones are a SystemExit of code 2."""
    for command in GROUP.commands.values():
        monkeypatch.setattr(command, "callback", lambda **_: None)

    def parse(name: str, *typed: str) -> None:
        if name == "bench" and typed:
            parse_benchmark(monkeypatch, *typed)
            return
        with pytest.raises(SystemExit) as ended:
            GROUP.main([name, *typed], prog_name="rddm-fast")
        if ended.value.code:
            raise ended.value

    return parse


def ours(page: str) -> list[list[str]]:
    """What follows `rddm-fast`, or `-m rddm_fast.cli`, in a page's blocks of shell."""
    found = []
    for command in shell_commands(page):
        at = next((i for i, word in enumerate(command) if word in ("rddm-fast", "rddm_fast.cli")), None)
        if at is not None:
            found.append(command[at + 1 :])
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if ours(page)])
def test_the_command_line_takes_the_commands(
    page: str, parse: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ours(page):
        try:
            parse(*typed)
        except SystemExit:
            pytest.fail(f"{page}: rddm-fast {' '.join(typed)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_have_the_options_that_are_named(page: str) -> None:
    for code in inline_code(page):
        name, *rest = [*code.split()[1:], ""] if re.match(r"rddm-fast ", code) else ["COMMAND"]
        if name.startswith("-") or name.isupper():
            continue
        assert name in GROUP.commands, code
        options = {o for p in GROUP.commands[name].params for o in (*p.opts, *p.secondary_opts)}
        if name != "bench":
            assert {word for word in rest if word.startswith("-")} <= {*options, "--help"}, code
        elif rest[0] and not rest[0].isupper():
            assert rest[0] in BENCHMARKS, code


@pytest.mark.parametrize(
    "typed",
    [
        ["restore", "x", "-o", "y", "--stepz", "3"],
        ["restore", "x"],
        ["train", "--output", "y", "--steps", "many"],
        ["lift"],
        ["bench", "sampler", "--sizez", "3"],
    ],
)
def test_a_wrong_command_is_seen(typed: list[str], parse: Callable[..., None]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*typed)
    assert ended.value.code == 2


def test_every_command_is_listed() -> None:
    listed = {code.split()[1] for code in inline_code("docs/commands.md") if code.startswith("rddm-fast ")}
    assert {*GROUP.commands} <= listed


def test_targets_of_make_and_modules_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [command for page in PAGES for command in shell_commands(page)]
    assert {word for name, *rest in commands if name == "make" for word in rest} <= targets
    modules = [rest[1] for name, *rest in commands if name == "python" and rest[0] == "-m"]
    assert modules and all(importlib.util.find_spec(module) for module in modules)
