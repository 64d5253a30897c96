"""What a user reads first: --help and --version come at once, and a flag looks like a flag."""

import re

import pytest
from commands import python, run, succeeded

AFTER = (
    "import sys; from rddm_fast.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
)


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["restore", "--help"], ["train", "--help"], ["ddim", "--help"], ["serve", "--help"]],
    ids=" ".join,
)
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    done = python("-c", AFTER, *arguments)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert done.stderr.strip() == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["restore", "--help"], ["train", "--help"]], ids=" ".join)
def test_a_flag_does_not_look_as_if_it_took_a_value(arguments: list[str]) -> None:
    told = succeeded(run(*arguments)).stdout
    assert "bool" not in told


def test_an_option_with_a_value_still_shows_its_type() -> None:
    told = succeeded(run("restore", "--help")).stdout
    assert re.search(r"--device +\Sauto\|cpu\|cuda", told) and re.search(r"--overwrite +Also", told)


def test_the_help_of_restore_says_what_a_result_keeps() -> None:
    told = " ".join(succeeded(run("restore", "--help")).stdout.split())
    assert "EXIF (camera, date, place) and XMP are not kept" in told
