"""Importing is silent and light, and the public names are there."""

from pathlib import Path

import pytest
from commands import python

import rddm_fast

CORE = ["theory.schedule", "theory.objective", "theory.steps", "diffusion", "diffusion.residual_unets"]
CORE += ["ops", "fast", "compat", "system.files", "models.folder", "ops.env_report"]
EXTRAS = ["safetensors", "PIL", "cv2", "typer", "rich", "accelerate", "torchmetrics", "matplotlib", "pynvml"]
EXTRAS += ["skimage", "torchvision"]


def test_the_core_imports_without_any_extra_and_without_a_word() -> None:
    code = f"""
import sys
import torch
triton = "triton" in sys.modules  # torch may import it; this package's core does not
for name in {EXTRAS}:
    sys.modules[name] = None  # an import of it fails
import rddm_fast
for name in {CORE}:
    __import__("rddm_fast." + name)
rddm_fast.FastSampler
assert not torch.cuda.is_initialized()
assert ("triton" in sys.modules) == triton and "rddm_fast.kernels" not in sys.modules
assert all(sys.modules[name] is None for name in {EXTRAS})
"""
    done = python("-W", "error", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_extra_is_named_where_it_is_needed(tmp_path: Path) -> None:
    code = "import sys; sys.modules['safetensors'] = None; import rddm_fast; rddm_fast.load_model('derain')"
    done = python("-c", code)
    assert done.stderr.splitlines()[-1].endswith("pip install 'rddm_fast[models]' installs it")


def test_every_public_name_is_there() -> None:
    assert all(getattr(rddm_fast, name) is not None for name in rddm_fast.__all__)
    assert set(rddm_fast.__all__) <= set(dir(rddm_fast))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = rddm_fast.Nothing  # type: ignore[attr-defined]
