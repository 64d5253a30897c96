"""An optional package that is missing is named with the command that installs it."""

import json
import sys
from pathlib import Path

import pytest

from rddm_fast.system.extras import require


def test_an_installed_module_is_returned() -> None:
    assert require("json", "models") is json


@pytest.mark.parametrize("module", ["rddm_no_such_package", "rddm_no_such_package.part"])
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    with pytest.raises(ImportError) as caught:
        require(module, "models")
    assert str(caught.value) == "rddm_no_such_package is not installed; pip install 'rddm_fast[models]' installs it"
    assert caught.value.name == "rddm_no_such_package"


def test_a_missing_dependency_of_an_installed_package_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rddm_installed.py").write_text("import rddm_no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'rddm_no_such_dependency'"):
        require("rddm_installed", "models")
    sys.modules.pop("rddm_installed", None)
