"""`rddm-fast operators`: one line per degradation, and each form can be used."""

from commands import run, succeeded

from rddm_fast.inverse.operators import listing


def test_one_line_per_operator() -> None:
    lines = succeeded(run("operators")).stdout.splitlines()
    assert len(lines) == len(listing()) == 9
    for printed, (form, line) in zip(lines, listing(), strict=True):
        assert printed.split("  ")[0] == form and printed.endswith("  " + line)
    assert lines[2] == "sr:F            F times smaller, by the mean of F × F pixels"
