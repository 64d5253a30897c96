"""Every dependency states the lowest version that it is tested with (`make test-lowest`)."""

import importlib.util
import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("rddm_fast_lowest", ROOT / ".ci" / "lowest.py")
lowest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lowest)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_dependency_states_one() -> None:
    found = lowest.lowest(PROJECT)
    extras = PROJECT["optional-dependencies"]
    apart = ("dev", "demo", "ray")  # `make test-cluster` tests the last one
    listed = [text for extra in extras if extra not in apart for text in extras[extra]]
    names = {re.split(r"[\[>=<; ]", text)[0] for text in [*PROJECT["dependencies"], *listed]} - {"rddm_fast"}
    assert found.keys() == names
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in found.values()), found


def test_torch_is_bounded_as_the_readme_says() -> None:
    stated = re.search(r"torch (\d+\.\d+) to (\d+)\.(\d+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    first, major, last = stated.groups()
    assert f"torch>={first}.0,<{major}.{int(last) + 1}" in PROJECT["dependencies"]


def test_a_dependency_without_one_is_named() -> None:
    project = {
        "name": "x",
        "dependencies": ["numpy>=1.26.0"],
        "optional-dependencies": {"test": ["x[a]"], "a": ["rich"]},
    }
    with pytest.raises(SystemExit, match=r"'rich' in pyproject\.toml states no lowest version: write one"):
        lowest.lowest(project)
    project["optional-dependencies"]["a"] = ["triton==3.6.0; sys_platform == 'linux'", "rich>=14.3.0,<16"]
    assert lowest.lowest(project) == {"numpy": "1.26.0", "triton": "3.6.0", "rich": "14.3.0"}
