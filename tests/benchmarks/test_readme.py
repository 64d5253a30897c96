"""The README's tables are the recorded figures, and one command writes them."""

from pathlib import Path

import pytest

from rddm_fast.benchmarks import readme

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "benchmarks" / "results" / "xeon"


def test_the_tables_are_the_recorded_figures() -> None:
    text = (ROOT / "README.md").read_text()
    assert readme.written(text, readme.kept(RECORDED)) == text


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, copy = (ROOT / "README.md").read_text(), tmp_path / "README.md"
    head, tail = text.split("<!-- sampler -->\n", 1)
    stale = f"{head}<!-- sampler -->\n\nold figures\n\n{tail[tail.index('<!-- end -->') :]}"
    copy.write_text(stale)
    readme.main(["--results", str(RECORDED), "--readme", str(copy)])
    assert copy.read_text() == text and "5 tables from" in capsys.readouterr().out


@pytest.mark.parametrize("marks", [0, 2])
def test_a_place_that_is_not_there_once_is_named(marks: int) -> None:
    text = "<!-- sampler -->\n<!-- end -->\n" * marks
    with pytest.raises(ValueError, match=f"the README has {marks} places for the table 'sampler'"):
        readme.written(text, readme.kept(RECORDED))
