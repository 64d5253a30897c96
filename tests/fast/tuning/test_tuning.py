"""Choices are measured once, checked first, kept in a file, and never make another image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small_model

from rddm_fast.fast import FastPrior, FastSampler
from rddm_fast.fast.folded.convolutions import PackedConv2d, TiledConv2d
from rddm_fast.fast.tuning import measure
from rddm_fast.fast.tuning.clock import fastest, peak
from rddm_fast.fast.tuning.measure import WrongResult
from rddm_fast.fast.tuning.table import Peak, Table, TableError
from rddm_fast.fast.tuning.tuner import AS_MEASURED, AT_ONCE, BY_RULES, IN_TURN
from rddm_fast.theory.schedule import Schedule

CPU = torch.device("cpu")
IMAGE = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
DRAWS = [torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(i)) for i in range(4)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDDM_FAST_CACHE", str(tmp_path))
    return tmp_path / "choices"


def timed(monkeypatch: pytest.MonkeyPatch, **preferred: bool) -> list[list[str]]:
    """Let the clock find the last way of everything the fastest, but of the whole network the preferred ones."""
    rounds: list[list[str]] = []

    def stand_in(calls: Mapping[str, Any], *_: object) -> dict[str, float]:
        rounds.append(list(calls))
        best = next((name for name in calls if preferred.get(name.replace(" ", "_"))), list(calls)[-1])
        return {name: 1e-6 if name == best else 2e-6 for name in calls}

    monkeypatch.setattr(measure, "fastest", stand_in)
    monkeypatch.setattr(measure, "peak", lambda *_: Peak(1.0, 1.0))
    return rounds


def test_the_fastest_ways_are_taken_and_the_images_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    diffusion = small_model()
    by_rules = FastSampler(diffusion, tune=False)
    tuned = FastSampler(diffusion, tune=True)
    expected, found = by_rules(IMAGE, draws=DRAWS), tuned(IMAGE, draws=DRAWS)
    assert (found - expected).abs().max() <= 1e-5 and not torch.equal(found, expected)
    assert tuned.tuner is not None
    known = tuned.tuner.known()
    assert known and all(entry.way == list(entry.us)[-1] != entry.rule for _, _, entry in known)
    packed = [module for module in tuned.networks.modules() if isinstance(module, PackedConv2d)]
    assert packed and all(set(module.chosen.values()) == {PackedConv2d.PLAIN} for module in packed)


def test_what_was_measured_is_not_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = timed(monkeypatch)
    diffusion = small_model()
    first = FastSampler(diffusion, tune=True)
    image = first(IMAGE, draws=DRAWS)
    (path,) = cache.iterdir()
    text, count = path.read_text(), len(rounds)
    assert first.tuner is not None and first.tuner.table.path == path and count >= 10
    second = FastSampler(diffusion, tune=True)
    assert torch.equal(second(IMAGE, draws=DRAWS), image) and len(rounds) == count and path.read_text() == text
    # Without tune= what is stored is taken and nothing measured, in a file of one's own too.
    stored, pinned = FastSampler(diffusion), FastSampler(diffusion, tune=path)
    for sampler in (stored, pinned):
        assert torch.equal(sampler(IMAGE, draws=DRAWS), image)
        sampler.warmup((1, 3, 32, 32))
    assert len(rounds) == count
    FastSampler(diffusion, tune=True).warmup((1, 3, 32, 32))
    assert len(rounds) > count and len(path.read_text()) > len(text)
    assert not torch.equal(FastSampler(diffusion, tune=False)(IMAGE, draws=DRAWS), image)


def test_ways_that_are_faster_by_themselves_alone_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, by_the_rules=True)
    diffusion = small_model()
    tuned = FastSampler(diffusion, tune=True, parallel=False)
    assert torch.equal(tuned(IMAGE, draws=DRAWS), FastSampler(diffusion, tune=False)(IMAGE, draws=DRAWS))
    assert tuned.tuner is not None
    for _, _, entry in tuned.tuner.known():
        assert entry.way == entry.rule and "not among the other layers" in next(iter(entry.left_out.values()))
    assert "not among the other layers" in tuned.explain()


@pytest.mark.parametrize("way", [AT_ONCE, IN_TURN])
def test_two_networks_are_computed_at_once_or_in_turn(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, at_once=way == AT_ONCE, one_after_the_other=way == IN_TURN)
    diffusion = small_model()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        tuned = FastSampler(diffusion, tune=True)
        image = tuned(IMAGE, draws=DRAWS)
        again = FastSampler(diffusion)
        assert torch.equal(again(IMAGE, draws=DRAWS), image)
        for sampler in (tuned, again):
            assert sampler.loop.at_once == {tuple(IMAGE.shape): way == AT_ONCE}
        fixed = FastSampler(diffusion, tune=True, parallel=False)
        assert fixed.loop.at_once == {}
    finally:
        torch.set_num_threads(threads)
    assert {site.threads for _, site, _ in tuned.tuner.known()} == {1, 2}  # type: ignore[union-attr]


def test_a_way_that_is_wrong_or_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    plain, wrong = PackedConv2d.by, iter([torch.nan, 1.001] * 100)

    def by(self: PackedConv2d, way: str, x: torch.Tensor) -> torch.Tensor:
        return plain(self, way, x) * (next(wrong) if way == PackedConv2d.PLAIN else 1)

    monkeypatch.setattr(PackedConv2d, "by", by)
    tuned = FastSampler(small_model(), tune=True)
    tuned(IMAGE, draws=DRAWS)
    entries = [entry for title, _, entry in tuned.tuner.known() if title.startswith(("7x7", "4x4"))]  # type: ignore[union-attr]
    reasons = [entry.left_out[PackedConv2d.PLAIN] for entry in entries]
    assert all(entry.way == PackedConv2d.PACKED for entry in entries)
    assert any(reason.startswith("1.0e-03 apart") for reason in reasons) and any("nan" in r for r in reasons)


def test_a_rule_that_is_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = TiledConv2d.exact
    monkeypatch.setattr(TiledConv2d, "exact", lambda self, *given: exact(self, *given) * 1.001)
    with pytest.raises(WrongResult, match=r"3x3 of 16 to .* apart from the exact result: please report this"):
        FastSampler(small_model(), tune=True)(IMAGE, draws=DRAWS)


def test_priors_take_the_choices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    diffusion = small_model("pred_noise", condition=False, schedule=Schedule.from_ddim())
    rules = FastPrior(diffusion)(IMAGE, 500)
    FastSampler(diffusion, tune=True).warmup(IMAGE.shape)
    tuned = FastPrior(diffusion)(IMAGE, 500)
    assert (tuned - rules).abs().max() <= 2e-5 and not torch.equal(tuned, rules)


def test_the_clock_and_the_peak() -> None:
    images = [torch.zeros(8)]
    times = fastest({"once": lambda: torch.ones(400, 400) @ torch.ones(400, 400), "nothing": lambda: None}, CPU, images)
    assert 0 <= times["nothing"] < times["once"]
    found = peak(CPU, torch.float32)
    assert found.gflop_s > 1 and found.gb_s > 0.1


def test_a_cache_that_cannot_be_written_costs_the_table_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RDDM_FAST_CACHE", str(tmp_path / "file"))
    tuned = FastSampler(small_model(), tune=True)
    assert tuned(IMAGE, draws=DRAWS).shape == IMAGE.shape and tuned.tuner.known()  # type: ignore[union-attr]
    assert "what was measured cannot be kept (" in capsys.readouterr().err


def damaged(found: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**found, **changes})


WRONG = {
    "no JSON": (lambda found: "{", "is not a table of choices"),
    "something else": (lambda found: "[]", "is not a table of choices: pass one that rddm-fast tune has written"),
    "a later version": (lambda found: damaged(found, version=2), "a table of version 2, and this rddm_fast reads 1"),
    "another machine": (
        lambda found: damaged(found, machine={**found["machine"], "torch": "1.0"}),
        "was measured elsewhere \\(torch 1.0, not",
    ),
    "no machine": (lambda found: damaged(found, machine=None), "it does not say which"),
    "a way without a time": (
        lambda found: damaged(found, measured=[{**found["measured"][0], "way": "magic"}]),
        "is damaged .*'magic' has no time",
    ),
    "no image": (
        lambda found: damaged(found, measured=[{**found["measured"][0], "images": ["3x3"]}]),
        "'3x3' is not the shape of images",
    ),
    "an unknown way": (
        lambda found: damaged(
            found, measured=[{**row, "way": "magic", "us": {"magic": 1}} for row in found["measured"]]
        ),
        "is computed by .*, not by 'magic': measure again with rddm-fast tune",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_that_cannot_be_used_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    diffusion = small_model()
    sampler = FastSampler(diffusion, tune=True)
    sampler.warmup((1, 3, 16, 16))
    path = tmp_path / "pinned.json"
    sampler.tuner.table.write(path)  # type: ignore[union-attr]
    assert FastSampler(diffusion, tune=path).tuner.known()  # type: ignore[union-attr]
    change, message = WRONG[case]
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(TableError, match=message):
        FastSampler(diffusion, tune=path)


def test_a_pinned_table_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none.json cannot be read .*: make one with rddm-fast tune"):
        FastSampler(small_model(), tune=tmp_path / "none.json")


def test_what_another_process_has_measured_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch)
    one, other = (FastSampler(small_model(dim=dim), tune=True) for dim in (16, 24))
    one.warmup((1, 3, 16, 16))
    other.warmup((1, 3, 16, 16))
    titles = {title for title, _ in Table.stored(CPU).entries}
    assert {"4x4 of 16 to 16 channels, stride 2, float32", "4x4 of 24 to 24 channels, stride 2, float32"} <= titles


assert (BY_RULES, AS_MEASURED) == ("by the rules", "as measured")  # `timed` prefers them by name
