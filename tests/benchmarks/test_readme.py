"""The tables of README.md and docs/benchmarks.md are the recorded figures, and one command writes them."""

from pathlib import Path

import pytest

from rddm_fast.benchmarks import readme

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "benchmarks" / "results" / "xeon"


@pytest.mark.parametrize("page", readme.TABLES)
def test_the_tables_are_the_recorded_figures(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme.written(page, text, readme.kept(RECORDED)) == text


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true = {page: (ROOT / page).read_text(encoding="utf-8") for page in readme.TABLES}
    for page, tables in readme.TABLES.items():
        mark = f"<!-- {next(iter(tables))} -->\n"
        head, tail = true[page].split(mark, 1)
        stale = f"{head}{mark}\nold figures\n\n{tail[tail.index('<!-- end -->') :]}"
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text(stale, encoding="utf-8")
    readme.main(["--results", str(RECORDED), "--root", str(tmp_path)])
    assert {page: (tmp_path / page).read_text(encoding="utf-8") for page in true} == true
    assert f"README.md: summary from {RECORDED}" in capsys.readouterr().out


@pytest.mark.parametrize("marks", [0, 2])
def test_a_place_that_is_not_there_once_is_named(marks: int) -> None:
    text = "<!-- sampler -->\n<!-- end -->\n" * marks
    with pytest.raises(ValueError, match=rf"docs/benchmarks\.md has {marks} places for the table 'sampler'"):
        readme.written("docs/benchmarks.md", text, readme.kept(RECORDED))
