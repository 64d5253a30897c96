"""The environment report is complete, serialises to JSON, and survives whatever is missing."""

import builtins
import importlib.metadata
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from rddm_fast.ops import backends, env_report


def test_report_is_json_and_names_what_runs_here():
    found = json.loads(json.dumps(env_report.report()))
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    used = backends.OPS["reverse_step"].backend(None, torch.device("cpu"))
    assert found["backends"]["reverse_step"]["cpu"]["used"] == used
    assert set(found["backends"]["reverse_step"]["cpu"]["others"]) == {"reference", "cuda", "triton"}


def test_the_networks_ops_name_what_they_were_not_written_for():
    found = env_report.report()["backends"]
    assert set(found) == {
        *("reverse_step", "reverse_step_", "forward_diffuse", "joint_loss", "joint_loss_backward_"),
        *("group_norm_silu", "channel_norm", "linear_attention", "attention_layer", "conv1x1", "conv3x3"),
        *("stem_conv", "conv_by_taps", "conv_norm_silu", "residual_block", "conv3x3_weight_gradient"),
        *("pixel_attention", "pixel_attention_backward"),
        *("group_norm_silu_training", "group_norm_silu_backward"),
        *("range_null_step", "range_null_step_", "spectral_step_", "tacos_step", "walsh_hadamard"),
    }
    assert found["group_norm_silu"]["cuda"]["others"]["cuda"] == "this op has no such kernel"
    assert found["conv3x3"]["cuda"]["others"]["cuda"] == "this op has no such kernel"
    assert found["conv1x1"]["cuda"]["used"] is None
    for op in ("channel_norm", "linear_attention", "stem_conv", "conv_by_taps", "conv_norm_silu"):
        assert found[op]["cpu"]["used"] == "reference"
        assert found[op]["cpu"]["others"]["cpp"] == found[op]["cuda"]["others"]["cuda"] == "this op has no such kernel"


def test_every_backend_that_is_not_used_has_a_reason():
    for devices in env_report.report()["backends"].values():
        for choice in devices.values():
            assert set(choice["others"]) | {choice["used"]} - {None} == set(backends.BACKENDS)
            assert all(choice["others"].values())


@pytest.mark.parametrize("missing", ["packages", "nvml", "library"])
def test_missing_things_are_named_and_do_not_raise(monkeypatch, missing):
    if missing == "packages":

        def no_version(package):
            raise importlib.metadata.PackageNotFoundError(package)

        monkeypatch.setattr(importlib.metadata, "version", no_version)
        assert env_report.report()["versions"]["rddm_fast"] is None
    elif missing == "nvml":
        original = builtins.__import__

        def no_pynvml(name, *args, **kwargs):
            if name == "pynvml":
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_pynvml)
        assert "nvidia-ml-py is not installed" in env_report.report()["gpus"]
    else:
        monkeypatch.setattr(backends, "build_info", None)
        monkeypatch.setattr(backends, "why_not_compiled", "not compiled: for this test")
        found = env_report.report()
        assert found["compiled"] == {"none": "not compiled: for this test"}
        assert found["backends"]["reverse_step"]["cpu"]["used"] == "reference"
    env_report.formatted(env_report.report())


def test_the_module_runs_and_prints_the_same_in_both_forms(tmp_path):
    def printed(*options):
        run = [sys.executable, "-m", "rddm_fast.ops.env_report", *options]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, check=True, text=True).stdout

    found = json.loads(printed("--json"))
    assert found["compiled"] == (backends.build_info or {"none": backends.why_not_compiled})
    assert printed().strip() == env_report.formatted(found)


@pytest.mark.parametrize(
    ("driver", "capability", "reason"),
    [
        (13, (9, 0), None),
        (None, (9, 0), None),
        (12, (9, 0), "compiled by CUDA 13, and the driver serves CUDA 12: update it, or build by CUDA 12"),
        (13, (7, 0), "compiled for 80-real 90-real, and this device is 7.0"),
    ],
)
def test_why_a_gpu_is_not_served(
    driver: int | None, capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = {"cuda": True, "nvcc": "13.0.88", "cuda_architectures": "80-real 90-real"}
    monkeypatch.setattr(backends, "build_info", built)
    monkeypatch.setattr(backends, "_architectures", backends.parse_architectures(built["cuda_architectures"]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(backends, "_driver_version", lambda: driver)
    assert backends.why_not("cuda", torch.device("cuda")) == reason


def test_matrix_products_need_a_gpu_that_has_them(monkeypatch):
    monkeypatch.setattr(backends, "why_not", lambda backend, device: None)
    for capability, best in (((7, 5), None), ((8, 0), "triton"), ((9, 0), "triton")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        for op in ("conv3x3", "conv_by_taps", "conv_norm_silu", "stem_conv", "attention_layer"):
            assert backends.OPS[op].best(torch.device("cuda")) == best
        assert backends.OPS["group_norm_silu"].best(torch.device("cuda")) == "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(backends.BackendUnavailable, match=r"needs compute capability 8\.0, and this device has 7\.5"):
        backends.OPS["conv3x3"].backend("triton", torch.device("cuda"))
