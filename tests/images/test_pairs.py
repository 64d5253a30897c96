"""Pairs are matched by name, never by order, and every error names the file and the line at fault."""

import os
import threading
from pathlib import Path

import pytest

from rddm_fast.images.pairs import DataError, find_pairs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def matched(pairs) -> list[tuple[str, str]]:
    return [(pair.input.name, pair.target.name) for pair in pairs]


def test_folders_are_matched_by_name_not_by_order(tmp_path):
    rain = touch(tmp_path / "rain", "b.PNG", "a.jpg", "night/a.jpg", "notes.txt")
    clean = touch(tmp_path / "clean", "night/a.png", "a.png", "b.png")
    pairs = find_pairs(rain, clean)
    found = [(pair.name, pair.target.relative_to(clean).as_posix()) for pair in pairs]
    assert found == [("a", "a.png"), ("b", "b.png"), ("night/a", "night/a.png")]
    assert all(pair.mask is None for pair in pairs)


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (["0_rain.png", "1_rain.png"], ["0_clean.png", "1_clean.png"]),
        (["rain-001.png", "rain-002.png"], ["norain-001.png", "norain-002.png"]),
        (["a_noisy.png", "b_noisy.png"], ["a.png", "b.png"]),
        (["x/a.png", "x/b.png"], ["y/a.png", "y/b.png"]),
    ],
)
def test_common_naming_habits_are_understood(tmp_path, inputs, targets):
    pairs = find_pairs(touch(tmp_path / "in", *inputs), touch(tmp_path / "out", *targets))
    assert matched(pairs) == [(Path(a).name, Path(b).name) for a, b in zip(inputs, targets, strict=True)]


def test_patterns_single_files_and_masks(tmp_path):
    touch(tmp_path, "a_rain.png", "b_rain.png", "a_clean.png", "b_clean.png", "a_mask.png", "b_mask.png")
    pairs = find_pairs(tmp_path / "*_rain.png", tmp_path / "*_clean.png", tmp_path / "*_mask.png")
    assert [(p.input.name, p.target.name, p.mask.name) for p in pairs] == [
        (f"{x}_rain.png", f"{x}_clean.png", f"{x}_mask.png") for x in "ab"
    ]
    one = find_pairs(tmp_path / "a_rain.png", tmp_path / "a_clean.png")
    assert matched(one) == [("a_rain.png", "a_clean.png")]


def test_restoration_needs_no_target(tmp_path):
    pairs = find_pairs(touch(tmp_path, "a.png", "b.png"))
    assert [(pair.name, pair.target, pair.mask) for pair in pairs] == [("a", None, None), ("b", None, None)]


def test_flists(tmp_path, monkeypatch):
    touch(tmp_path / "data", "rain/with blank 1.png", "rain/2.png", "clean/2.png", "clean/with blank 1.png")
    # Absolute, relative to the list, relative to the working folder; blank lines; in different order.
    rain = tmp_path / "data" / "rain.flist"
    rain.write_text(f"{tmp_path}/data/rain/with blank 1.png\r\n\r\nrain/2.png\r\n")
    (tmp_path / "lists").mkdir()
    clean = tmp_path / "lists" / "clean.flist"
    clean.write_text("data/clean/2.png\n\ndata/clean/with blank 1.png")
    monkeypatch.chdir(tmp_path)
    pairs = find_pairs(rain, clean)
    assert matched(pairs) == [("with blank 1.png",) * 2, ("2.png",) * 2]
    assert pairs[1].origin == f"{rain}, line 3; {clean}, line 1"


def test_csv(tmp_path):
    touch(tmp_path / "sets", "a/x.png", "b/other, name.png", "m/x.png")
    table = tmp_path / "sets" / "train.csv"
    table.write_bytes(b'\xef\xbb\xbfInput, target,mask,split\na/x.png,"b/other, name.png",m/x.png,train\n')
    (pair,) = find_pairs(table)
    names = [path.relative_to(tmp_path / "sets").as_posix() for path in (pair.input, pair.target, pair.mask)]
    assert names == ["a/x.png", "b/other, name.png", "m/x.png"]
    assert (pair.name, pair.origin) == ("x", f"{table}, line 2")
    table.write_text("input\na/x.png\n")
    assert find_pairs(table)[0].target is None


def error(*sources) -> str:
    with pytest.raises(DataError) as caught:
        find_pairs(*sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_without_a_partner_are_named(tmp_path):
    rain, clean = touch(tmp_path / "rain", "a.png", "b.png"), touch(tmp_path / "clean", "a.png", "c.png")
    assert error(rain, clean) == (
        f"inputs and targets are matched by name, but there is no target for {rain}/b.png, "
        f"and no input for {clean}/c.png"
    )
    many = touch(tmp_path / "many", *(f"{n}.png" for n in range(6)), "a.png", "c.png")
    assert "no input for " in error(clean, many) and error(clean, many).endswith("and 3 more")
    assert error(rain, rain, touch(tmp_path / "masks", "a.png")).startswith("inputs and masks are matched by name")


def test_ambiguous_names_are_not_guessed(tmp_path):
    # Without rain and low, both inputs would be "a".
    rain = touch(tmp_path / "rain", "a_rain.png", "a_low.png")
    clean = touch(tmp_path / "clean", "a.png", "b.png")
    assert "no target for" in error(rain, clean)
    twins = touch(tmp_path / "twins", "a.png", "a.jpg")
    assert error(twins, clean).endswith(f"{twins}/a.jpg, {twins}/a.png have the same name")


def test_lists_of_equal_length_are_not_paired_by_order(tmp_path):
    touch(tmp_path, "p.png", "q.png")
    (tmp_path / "in.flist").write_text("p.png\n")
    (tmp_path / "out.flist").write_text("q.png\n")
    message = error(tmp_path / "in.flist", tmp_path / "out.flist")
    assert f"no target for {tmp_path}/p.png ({tmp_path}/in.flist, line 1)" in message


def test_errors_name_file_and_line(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "empty").mkdir()
    table, listing = tmp_path / "t.csv", tmp_path / "t.flist"
    for source in (tmp_path / "gone", listing, table):
        assert error(source) == f"{source} does not exist"
    for source in (tmp_path / "empty", tmp_path / "z*.png"):
        assert error(source) == f"{source} holds no image"
    for path, content, what in [
        (listing, b"\n\n", " holds no image"),
        (listing, b"a.png\n\nc d.png\n", ", line 3: c d.png does not exist"),
        (listing, b"a.png\n\xff\xfe.png\n", ", line 2: not UTF-8 text"),
        (table, b"in;target\na.png;b.png\n", " has no column named input; its columns are: in;target"),
        (table, b"", " has no column named input; its columns are: none"),
        (table, b"input,target\n", " names no image"),
        (table, b"input,target\na.png,b.png\na.png\n", ", line 3: no target given"),
        (table, b"input,target\na.png,z.png\n", ", line 2: z.png does not exist"),
    ]:
        path.write_bytes(content)
        assert error(path) == f"{path}{what}"
    table.write_text("input,target\na.png,b,c.png\n")
    assert error(table).startswith(f"{table}, line 2: more values than columns")
    assert "names whole pairs" in error(table, tmp_path)


def test_an_odd_entry_is_named_in_one_short_line(tmp_path):
    """Names that no file can have, and a list that is a picture or has lost its line ends."""
    listing = tmp_path / "t.flist"
    for content, shown in [(b"nul\0\x1b.png", r"nul\x00\x1b.png"), (b"x" * 300, f"{'x' * 100}...{'x' * 50}")]:
        listing.write_bytes(content)
        assert error(listing) == f"{listing}, line 1: {shown} does not exist"
    assert error("y" * 300) == f"{'y' * 100}...{'y' * 50} does not exist"
    assert error(f"{'y' * 300}.png").endswith("does not exist")
    listing.write_bytes(b"x" * 200_000)
    assert len(error(touch(tmp_path, "a.png"), listing)) < 400


def test_a_table_that_is_no_csv_is_an_error(tmp_path):
    touch(tmp_path, "a.png")
    table = tmp_path / "t.csv"
    table.write_text("input\na.png\n" + "x" * 200_000)
    assert error(table) == f"{table}, line 3: not CSV: field larger than field limit (131072)"


@pytest.mark.parametrize("name", ["t.flist", "t.txt", "t.csv"])
def test_a_pipe_is_no_list(tmp_path, name):
    """Nobody writes into it, and it would be waited for for ever."""
    os.mkfifo(tmp_path / name)
    waiting = threading.Timer(5, lambda: (tmp_path / name).write_bytes(b""))
    waiting.start()
    try:
        assert "is a folder, a pipe or a device, not a list: save the list in a file" in error(tmp_path / name)
    finally:
        waiting.cancel()


def test_a_pattern_does_not_run_in_a_circle(tmp_path, monkeypatch):
    """Two links to the folder itself: Python's own `**` would follow them in all orders, 40 deep."""
    touch(tmp_path, "a.png", "b/c.png", "b/d/e.png", ".hidden/f.png", "b/notes.txt")
    for name in ("x", "y"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "b")

    def found(pattern):
        return [pair.input.relative_to(tmp_path).as_posix() for pair in find_pairs(f"{tmp_path}/{pattern}")]

    assert found("**/*.png") == found("**") == found("**/**/*.p?g") == ["a.png", "b/c.png", "b/d/e.png"]
    assert found("b/**/e.png") == found("b/**/d/*") == ["b/d/e.png"]
    assert found("linked/*.png") == ["linked/c.png"]
    monkeypatch.chdir(tmp_path / "b")
    assert [(str(pair.input), pair.name) for pair in find_pairs("**/*.png")] == [("c.png", "c"), ("d/e.png", "d/e")]
