"""What is in a wheel and what it says of itself; `make wheels` builds and installs all that is released."""

import importlib.util
import json
import os
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from commands import python

from rddm_fast.ops import backends
from rddm_fast.system import version

pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 is not installed: only building needs it")
from setuptools import Distribution, Extension

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("rddm_fast_setup", ROOT / "setup.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without compiled code, built with no compiler to be found, and outside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = {**os.environ, "RDDM_FAST_BUILD": "0", "PATH": str(folder), "CC": "false", "CXX": "false"}
    command = ["-q", "egg_info", "--egg-base", folder, "build", "--build-base", folder / "build"]
    command += [
        "bdist_wheel",
        "--bdist-dir",
        folder / "bdist",
        "--dist-dir",
        folder / "dist",
        "--compression",
        "stored",
    ]
    done = python("setup.py", *command, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").iterdir()
    return wheel


def read(wheel: Path, name: str) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        return message_from_string(archive.read(path).decode())


def test_the_pure_wheel_is_for_any_machine(pure: Path) -> None:
    assert pure.name == f"rddm_fast-{version.__version__}-py3-none-any.whl"
    assert read(pure, "WHEEL")["Root-Is-Purelib"] == "true"
    with zipfile.ZipFile(pure) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith((".so", ".cpp", ".cu", ".h"))]
    assert {"rddm_fast/py.typed", "rddm_fast/kernels/reverse_step.py", "rddm_fast/benchmarks/__main__.py"} <= set(names)
    assert "rddm_fast/models/built_in/derain/model.safetensors" in names
    assert len(names) == len(set(names)) and not [name for name in names if name.startswith(("tests", "csrc"))]


def test_the_metadata_is_complete(pure: Path) -> None:
    found = read(pure, "METADATA")
    assert (found["Name"], found["Version"]) == ("rddm_fast", version.__version__)
    assert (found["License-Expression"], found["License-File"]) == ("Apache-2.0", "LICENSE")
    assert found["Author"] and found["Keywords"] and found["Summary"] and found["Requires-Python"] == ">=3.10"
    assert all("https://" in url for url in found.get_all("Project-URL"))
    assert "Typing :: Typed" in found.get_all("Classifier")
    assert found["Description-Content-Type"] == "text/markdown"
    page = found.get_payload()
    assert page.startswith("# rddm_fast") and "](benchmarks/" not in page and "](docs/" not in page


def test_the_pure_wheel_restores_and_says_what_it_is(pure: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pure) as archive:
        archive.extractall(tmp_path)
    code = """
import json, torch
from rddm_fast import FastSampler, load_model
from rddm_fast.ops.env_report import report
restored = FastSampler(load_model("derain"), steps=2)(torch.rand(1, 3, 16, 16))
print(json.dumps({"shape": list(restored.shape), **report()}))
"""
    done = python("-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shape"] == [1, 3, 16, 16]
    assert found["installed as"] == "pure-Python wheel (py3-none-any)"
    assert found["compiled"]["none"].startswith("not compiled: this is a pure-Python wheel (py3-none-any), and ")
    assert {devices["cpu"]["used"] for devices in found["backends"].values()} == {"reference"}


@pytest.mark.parametrize(
    ("tag", "package", "kind"),
    [
        ("py3-none-any", "rddm_fast", "pure-Python wheel (py3-none-any)"),
        ("py3-none-manylinux_2_34_x86_64", "rddm_fast", "binary wheel (py3-none-manylinux_2_34_x86_64)"),
        ("py3-none-any", "sources/rddm_fast", "source checkout"),  # an editable installation
        (None, "rddm_fast", "source checkout"),
    ],
)
def test_the_kind_of_installation(
    tag: str | None, package: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / package / "system" / "version.py"
    copy.parent.mkdir(parents=True)
    copy.write_text(Path(version.__file__).read_text())
    if tag is not None:
        information = tmp_path / "rddm_fast-9.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.4\nName: rddm_fast\nVersion: 9\n")
        (information / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location("copied_version", copy)
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    assert copied.installed_as() == kind


def test_a_compiled_wheel_is_for_every_python() -> None:
    distribution = Distribution({"name": "rddm_fast", "ext_modules": [Extension("rddm_fast.librddm_fast", [])]})
    command = build.AnyPythonWheel(distribution)
    command.ensure_finalized()
    python_tag, abi, platform = command.get_tag()
    assert (python_tag, abi) == ("py3", "none") and platform != "any"
    compiler = build.CMakeBuild(distribution)
    assert compiler.get_ext_filename("rddm_fast.librddm_fast") == os.path.join("rddm_fast", backends.LIBRARY.name)


def test_whether_to_compile_is_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RDDM_FAST_BUILD", raising=False)
    assert build.wants_library()
    monkeypatch.setenv("RDDM_FAST_BUILD", "0")
    assert not build.wants_library()
    monkeypatch.setenv("RDDM_FAST_BUILD", "no")
    with pytest.raises(SystemExit, match="RDDM_FAST_BUILD is 'no': set it to 1 to compile, or to 0"):
        build.wants_library()


def test_an_index_shows_no_broken_picture_or_link() -> None:
    readme = (
        "# x\n\n![a](b/c.jpg)\n\nsee [docs](docs/a.md), [paper](https://arxiv.org/abs/1) and ![d](https://e/f.png)\n"
    )
    page = "# x\n\nsee docs, [paper](https://arxiv.org/abs/1) and ![d](https://e/f.png)\n"
    assert build.index_page(readme) == page
