"""The benchmarks check before they time, and write what they say; on_gpu.sh names only what exists."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from small_models import small_model
from torch import nn

from rddm_fast.benchmarks import draw, harness, report
from rddm_fast.benchmarks.__main__ import BENCHMARKS
from rddm_fast.benchmarks.end_to_end import prior, profile, sampler, training
from rddm_fast.benchmarks.ops import (
    forward_diffuse,
    joint_loss,
    network_ops,
    range_null_step,
    reverse_step,
    spectral_step,
    tacos_step,
)
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast import FastSampler
from rddm_fast.fast.together import can_be_together
from rddm_fast.theory.schedule import Schedule

ROOT = Path(__file__).parents[2]
OPS = [*reverse_step.OPS, *forward_diffuse.OPS, *joint_loss.OPS]
OPS += [*range_null_step.OPS, *spectral_step.OPS, *tacos_step.OPS]
CPU = torch.device("cpu")
TINY = harness.Case((1, 3, 8, 8), "float32", "channels_last")


@pytest.fixture(autouse=True)
def _without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes 10 seconds an op, and is not what is tested here."""
    for module in (reverse_step, forward_diffuse, joint_loss, range_null_step, spectral_step, tacos_step):
        monkeypatch.setattr(module, "compiled", getattr(module, "needed", module.eager))
    monkeypatch.setitem(harness.CACHE_BYTES, "cpu", 1 << 20)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", harness.DTYPES)
def test_every_provider_is_right_and_recorded(op: harness.Op, dtype: str) -> None:
    seen: list[harness.Record] = []
    case = harness.Case(TINY.shape, dtype, TINY.layout)
    harness.measure(op, [case], CPU, repeats=3, report=seen.append, complain=pytest.fail)
    assert {"cpp", "eager", "compile"} <= {r.provider for r in seen}
    eager = next(r for r in seen if r.provider == "eager")
    for r in seen:
        assert 0 < r.us_p20 <= r.us_p50 <= r.us_p80
        assert r.gbps == pytest.approx(op.images_moved * 192 * harness.DTYPES[dtype].itemsize / r.us_p50 / 1e3)
        assert r.ratio_eager == pytest.approx(eager.us_p50 / r.us_p50)
        assert len(report.TABLE.line(r)) == len(report.TABLE.header)


@pytest.mark.parametrize("op", network_ops.OPS, ids=lambda op: op.name)
def test_the_networks_ops_are_right_and_recorded(op: harness.Op, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("group_norm", "channel_norm", "linear_attention", "layer"):
        monkeypatch.setattr(network_ops, f"{name}_compiled", getattr(network_ops, f"{name}_eager"))
    seen: list[harness.Record] = []
    assert {case.shape[0] for case in op.cases(False, CPU)} == {1, 16}
    for dtype in ("bfloat16", "float32"):
        case = harness.Case((1, 128, 8, 8), dtype, "channels_last")
        harness.measure(op, [case], CPU, repeats=3, report=seen.append, complain=pytest.fail)
    assert {"eager", "compile"} <= {r.provider for r in seen}
    assert ("cpp" in {r.provider for r in seen}) == (op.name in ("group_norm_silu", "attention_layer"))


def test_a_wrong_provider_is_named_and_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(case: harness.Case, device: torch.device, seed: int) -> harness.Work:
        work = reverse_step.OP.work(case, device, seed)
        work.calls["cpp"] = lambda: [work.calls["eager"]()[0] + 1e-4]
        work.calls["cpp in place"] = lambda: [torch.zeros(2) + torch.zeros(3)]
        return work

    op, file = harness.Op("reverse_step", 5, 5, wrong, lambda quick, device: [TINY]), tmp_path / "a.json"
    with pytest.raises(SystemExit, match=r"wrong, in 2 cases; the first: reverse_step by cpp on .* is off by 1\.0e-04"):
        report.main([op], "", ["--repeats", "3", "--json", str(file)])
    assert [r["provider"] for r in json.loads(file.read_text())] == ["eager", "compile"]
    assert "WRONG: reverse_step by cpp in place on" in capsys.readouterr().out


def test_inputs_rotate_through_more_than_the_cache() -> None:
    op = reverse_step.OP
    sets = harness.rotations(op, TINY, CPU)
    assert sets == 64 or sets * op.images_kept * TINY.image_bytes >= 4 << 20
    assert harness.rotations(op, harness.Case((16, 3, 512, 512), "float32", "contiguous"), CPU) == 2


def test_the_files_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    case = harness.Case(TINY.shape, "float32", "contiguous")
    ops = [replace(reverse_step.OP, cases=lambda quick, device: [case])]
    outputs = [tmp_path / name for name in ("a.json", "a.csv", "a")]
    options = [str(x) for pair in zip(("--json", "--csv", "--plot"), outputs, strict=True) for x in pair]
    report.main(ops, "", ["--quick", "--repeats", "3", "--ops", "reverse_step", *options])
    records = json.loads(outputs[0].read_text())
    names = [field.name for field in fields(harness.Record)]
    assert [list(r) for r in records] == [names] * len(records) and len(records) == 4
    rows = list(csv.DictReader(outputs[1].open()))
    assert [row["provider"] for row in rows] == [r["provider"] for r in records] and rows[0]["shape"] == "1x3x8x8"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "a.svg").read_text()
    assert "copy bandwidth" in capsys.readouterr().out
    draw.main([str(outputs[0]), str(tmp_path / "again")])
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"error: .*a\.json is not what a benchmark"):
        draw.main([str(outputs[0])])


def test_on_gpu_runs_each_step_and_keeps_its_deadline(tmp_path: Path) -> None:
    """A stand-in for Python does nothing, and fails at `launches`; the other steps run all the same."""
    script, out, python = ROOT / "benchmarks" / "on_gpu.sh", tmp_path / "out dir", tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *get_device_capability*) echo 9.0 ;; *launches*) echo no luck; exit 3 ;; esac\n'
    )
    python.chmod(0o755)
    (tmp_path / "compute-sanitizer").symlink_to(python)
    environment = {**os.environ, "PYTHON": str(python), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    dry, done = (
        subprocess.run([script, out, *options], capture_output=True, text=True, env=environment)
        for options in (["--dry-run"], [])
    )
    steps = dict(line.split(" (at most ", 1) for line in dry.stdout.splitlines())
    codes = re.findall(r"^(.+): exit code (\d+) after", (out / "summary.txt").read_text(), re.MULTILINE)
    names, at_once = list(steps), slice(3, 9)  # the tests, the sanitizers and the compilers end in any order
    ended = [name for name, _ in codes]
    assert [*ended[:3], *ended[9:]] == [*names[:3], *names[9:]] and set(ended[at_once]) == set(names[at_once])
    assert dict(codes) == {name: "3" if name == "launches" else "0" for name in names}
    assert done.returncode == 1 and "no luck" in done.stdout and (dry.returncode, dry.stderr) == (0, "")
    assert all(f"===== {name}: " in (out / "log.txt").read_text() for name in names)
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "summary.txt"]

    # On a GPU it may run for 9 minutes; the commands that it names exist, and few files have to travel.
    deadline = re.search(r" deadline=(\d+) ", script.read_text())
    assert deadline and 500 < int(deadline[1]) < 9 * 60
    assert all(int(text.split(" s)")[0]) <= 300 for text in steps.values())
    assert len(set(re.findall(r"--json (\S.*?\.json)", dry.stdout))) <= 9
    assert all((ROOT / file).is_file() for file in re.findall(r"tests/\S+\.py", dry.stdout))
    named = re.findall(r"-m rddm_fast\.benchmarks (\w+)", dry.stdout)
    assert len(named) == 18 and set(named) <= BENCHMARKS.keys()
    assert subprocess.run([script], capture_output=True).returncode == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_launches_are_not_counted_without_a_gpu() -> None:
    command = [sys.executable, "-P", "-m", "rddm_fast.benchmarks", "launches"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "error: there is no CUDA device to launch kernels on\n" and done.returncode == 1


def bench(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = Path(sys.executable).with_name("rddm-fast")
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([command, "bench", *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.parametrize("cwd", [ROOT, Path("/")], ids=["checkout", "elsewhere"])
def test_the_command_measures_the_installed_package_from_any_folder(cwd: Path) -> None:
    options = ["--quick", "--repeats", "2", "--no-compile", "--ops", "forward_diffuse"]
    done = bench("ops", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    providers = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("forward_diffuse")}
    assert {"cpp", "eager"} <= providers  # the compiled library, and not the sources beside it


def test_the_command_lists_and_explains(tmp_path: Path) -> None:
    listed = bench(cwd=tmp_path)
    assert listed.returncode == 0 and all(f"  {name} " in listed.stdout for name in BENCHMARKS)
    explained = bench("sampler", "--help", cwd=tmp_path)
    assert explained.stdout.startswith("usage: rddm-fast bench sampler") and "--sizes" in explained.stdout
    unknown = bench("sample", cwd=tmp_path)
    assert unknown.returncode == 1 and unknown.stderr.startswith("error: there is no benchmark 'sample': choose one of")


def test_the_sources_are_not_measured() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "ops"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "run `rddm-fast bench` instead" in done.stderr


def test_the_sampler_s_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def small(networks: str, steps: int, device: str) -> ResidualDiffusion:
        objective = "pred_res" if networks == "one" else "pred_res_noise"
        return small_model(objective, networks=networks, sampling_timesteps=steps)

    monkeypatch.setattr(sampler, "model", small)
    outputs = [str(tmp_path / name) for name in ("a.json", "a.csv", "a")]
    options = [x for pair in zip(("--json", "--csv", "--plot"), outputs, strict=True) for x in pair]
    sampler.main(["--networks", "two", "one", "--sizes", "32", "--steps", "2", "--repeats", "3", *options])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    names = ["eager", "eager, autocast", "folded", "folded, in turn", "folded, bfloat16", "folded, bfloat16, in turn"]
    one = [name for name in names if "turn" not in name]
    expected = [*(names if can_be_together() else one), *one]
    assert [r["provider"] for r in rows] == expected and {r["networks"] for r in rows} == {"two", "one"}
    for r in rows:
        assert 0 < r["ms_p20"] <= r["ms_p50"] <= r["ms_p80"] and 0 < r["matrix_fraction"] < 1 and r["psnr"] > 35
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + len(rows)
    assert capsys.readouterr().out.count("1x3x32x32") == len(rows)
    draw.main([str(tmp_path / "a.json"), str(tmp_path / "again")])
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and (tmp_path / "again.png").read_bytes() == picture


def test_what_is_compiled_is_named_by_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes a minute, and is not what is tested here: what it is asked for is."""
    asked = []

    def compiled(network: nn.Module, *, dynamic: bool, mode: str) -> nn.Module:
        asked.append((dynamic, mode))
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(sampler, "FastSampler", lambda diffusion, *, compile, **_: FastSampler(diffusion))
    diffusion, x = small_model(), torch.rand(1, 3, 16, 16)
    found = sampler.providers(diffusion, x, ["bfloat16"], ["default", "max-autotune"], tune=True)
    names = ["torch.compile, autocast", "torch.compile, max-autotune, autocast", "folded, compiled, bfloat16"]
    assert asked == [(False, "default"), (False, "max-autotune")] and set(names) <= found.keys()
    assert not any(dtype == "float32" for name, (dtype, _) in found.items() if name != "eager")
    with torch.no_grad():
        assert torch.equal(found[names[0]][1](), found[names[1]][1]())


def test_a_wrong_image_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "model", lambda *_: small_model("pred_res", networks="one"))
    monkeypatch.setattr(sampler, "TOLERANCE", 0.0)
    with pytest.raises(SystemExit, match="wrong, in 1 cases; the first: folded differs by up to"):
        sampler.main(["--sizes", "16", "--dtypes", "float32", "--repeats", "3", "--json", str(tmp_path / "a.json")])
    assert {row["provider"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]} == {"eager"}


def test_the_prior_s_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(
        prior, "load_model", lambda *_: small_model("pred_noise", condition=False, schedule=Schedule.from_ddim(50))
    )
    small = ["--size", "16", "--steps", "3", "--repeats", "3"]
    prior.main([*small, "--json", str(tmp_path / "a.json")])
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found["ms"]) == ["eager", "folded", "folded, bfloat16", "no network"]
    for name, factor in found["speedup"].items():
        assert factor == pytest.approx(found["ms"]["eager"]["p50"] / found["ms"][name]["p50"])
    assert 0 < found["difference"]["folded"] < 1e-4 and capsys.readouterr().out.count(" ms ") == 4
    monkeypatch.setattr(prior, "TOLERANCE", 0.0)
    with pytest.raises(AssertionError, match=r"folded differs by up to \d"):
        prior.main(small)


def test_the_profile_names_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    # In this process: one started in this folder would import the sources beside it, which may not be compiled.
    profile.main(["--size", "32", "--steps", "1", "--networks", "one", "--rows", "100"])
    printed = capsys.readouterr().out
    assert re.search("rddm_fast::(group_norm_silu|residual_block)", printed) and "hoisted:" in printed
    assert re.search(r"time:.*% (conv|blocks)", printed)


def test_the_training_step_s_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--dim", "8", "--size", "16", "--batch", "2", "--repeats", "2", "--networks", "two"]
    training.main([*arguments, "--device", "cpu", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["provider"] for row in rows] == ["eager", "rddm_fast"] and rows[0]["ratio_eager"] == 1
    printed = capsys.readouterr().out
    for row in rows:
        assert row["ms_p20"] <= row["ms_p50"] <= row["ms_p80"] and row["peak_mib"] > 1
        assert f"{row['provider']:15}two" in printed


def test_a_wrong_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TOLERANCE", 0.0)
    with pytest.raises(training.WrongGradient, match="rddm_fast's gradients differ by up to"):
        training.main(["--dim", "8", "--size", "16", "--batch", "2", "--device", "cpu"])
