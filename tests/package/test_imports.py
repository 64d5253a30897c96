"""The house keeps its floors: who may import whom (docs/architecture.md), how full a folder is, how long a file."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "rddm_fast": ROOT / "rddm_fast",
    "rddm_fast.kernels": ROOT / "kernels",
    "rddm_fast.benchmarks": ROOT / "benchmarks",
}
BELOW_FAST = ("system", "theory", "ops", "images", "diffusion", "models", "inverse")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "kernels": (),
    "theory": (),
    "system": (),
    "ops": ("theory", "kernels", "system"),
    "images": ("system",),
    "diffusion": ("images", "ops", "theory", "system"),
    "models": ("diffusion", "ops", "theory", "system"),
    "inverse": ("diffusion", "ops", "theory", "system"),
    "fast": ("models", "inverse", "diffusion", "ops", "theory", "system"),
    "training": ("fast", *BELOW_FAST),
    "restoration": ("fast", *BELOW_FAST),
    "compat": ("training", "restoration", "fast", *BELOW_FAST),
    "integrations": ("restoration", "fast", *BELOW_FAST),
    "serve": ("restoration", "fast", *BELOW_FAST),
    "cli": ("serve", "integrations", "training", "restoration", "fast", "benchmarks", *BELOW_FAST),
    "benchmarks": ("compat", "training", "restoration", "fast", "kernels", *BELOW_FAST),
}
"""Folder -> the folders that it may import, besides itself."""
CORE = ("theory", "system", "ops", "diffusion", "models", "inverse", "fast")
"""These import with torch and numpy alone."""
FOLDERS = ("rddm_fast", "kernels", "csrc", "benchmarks", "tests")
ENDINGS = (".py", ".h", ".cuh", ".cpp", ".cu")
"""What counts as a file of code; golden data and recorded results do not."""
MOST_FILES, MOST_LINES = 12, 400


def modules() -> Iterator[tuple[str, str]]:
    """(dotted name, source) of every file of the package, as it is installed."""
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *parts]), path.read_text(encoding="utf-8")


MODULES = dict(modules())


def known_module(name: str) -> bool:
    return name in MODULES or f"{name}.__init__" in MODULES


def imports(module: str, source: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is inside a function) of each import of a module, relative ones resolved."""
    tree = ast.parse(source)
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if known_module(whole) else base, node in inside


def room(module: str) -> str:
    """The folder of a module of ours; "" for the package's own files, its face."""
    _, first, *rest = [*module.split("."), ""]
    return first if rest[:1] != [""] or known_module(f"rddm_fast.{first}.__init__") else ""


def offences(module: str, source: str) -> list[str]:
    """The rules that the imports of a module break, one sentence each."""
    here, found = room(module), []
    for name, in_function in imports(module, source):
        top = name.split(".")[0]
        if top == "rddm_fast":
            there = room(name)
            if here and there != here and there not in MAY_IMPORT[here]:
                found.append(f"{module} imports {name}: {here} may not import {there or 'the face'}")
            # Benchmarks measure what a user calls, so they import faces as a user does.
            if here not in ("", "benchmarks") and f"{name}.__init__" in MODULES:
                found.append(f"{module} imports the face {name}: import the file")
        elif here == "kernels" and top not in (*sys.stdlib_module_names, "torch", "triton"):
            found.append(f"{module} imports {name}: kernels import torch and triton alone")
        elif here in CORE and not in_function and top not in (*sys.stdlib_module_names, "torch", "numpy"):
            found.append(f"{module} imports {name}: the core imports with torch and numpy alone")
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_a_module_imports_from_below(name: str) -> None:
    assert offences(name, MODULES[name]) == []


@pytest.mark.parametrize(
    ("module", "source", "sentence"),
    [
        ("rddm_fast.ops.noise", "from ..diffusion.unet import Unet", "ops may not import diffusion"),
        (
            "rddm_fast.training.log",
            "def f():\n    from ..restoration import metrics",
            "training may not import restoration",
        ),
        ("rddm_fast.kernels.reverse_step", "import rddm_fast.theory.objective", "kernels may not import theory"),
        ("rddm_fast.kernels.reverse_step", "import numpy", "kernels import torch and triton alone"),
        ("rddm_fast.fast.engine", "from .. import ModelError", "fast may not import the face"),
        ("rddm_fast.fast.engine", "from ..ops import reverse_step_", "import the file"),
        ("rddm_fast.cli.env", "from ..compat.networks import Unet", "cli may not import compat"),
        ("rddm_fast.diffusion.unet", "import scipy", "the core imports with torch and numpy alone"),
    ],
)
def test_the_check_sees_an_offence(module: str, source: str, sentence: str) -> None:
    assert any(sentence in offence for offence in offences(module, source))


def test_the_check_lets_pass_what_is_allowed() -> None:
    for source in (
        "from ..ops import backends",
        "from ..theory.steps import Step",
        "import math, torch",
        "from . import loop",
    ):
        assert offences("rddm_fast.fast.engine", source) == []
    assert offences("rddm_fast.models.from_diffusers", "def f():\n    import diffusers") == []


def test_the_floors_have_no_circle() -> None:
    """`MAY_IMPORT` can be laid out so that everything imports downwards."""
    left = dict(MAY_IMPORT)
    while left:
        ground = [name for name, below in left.items() if not set(below) & left.keys()]
        assert ground, f"a circle among {sorted(left)}"
        for name in ground:
            del left[name]


def test_folders_and_files_stay_small() -> None:
    """At most 12 files of code per folder, `__init__` and `__main__` aside, and at most 400 lines per file."""
    code = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in ENDINGS]
    files = Counter(str(p.parent.relative_to(ROOT)) for p in code if not p.stem.startswith("__"))
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}
    lines = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in code}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
