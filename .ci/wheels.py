"""Builds what is released, into dist/, and restores a photograph with each wheel: `make wheels`.

    rddm_fast-VERSION.tar.gz                             the sources, without tests and recorded results
    rddm_fast-VERSION-py3-none-any.whl                   Python alone, built from that archive
    rddm_fast-VERSION-py3-none-manylinux_X_Y_x86_64.whl  with the compiled library, for every Python

Each wheel is installed in an empty environment, which sees no compiler. The two results may differ by one level of 255.
The build of the compiled library is taken up again, as in every installation from this folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PHOTO = "restoration/photos/coffee.png"
MOST_APART = 1  # of 255 levels: what float32 sums in another order can round to the next level

COMPARE = """
import sys, numpy as np, PIL.Image
first, second = (np.asarray(PIL.Image.open(path)).astype(int) for path in sys.argv[1:])
print(abs(first - second).max())
"""


def output_of(*command: object, **options: object) -> str:
    """What a command prints; ends this script with what it said if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build_sources() -> Path:
    """Build the archive of the sources; it must have all that is compiled."""
    output_of(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", DIST, ROOT)
    (archive,) = DIST.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {Path(*Path(name).parts[1:]) for name in tar.getnames()}
    needed = [ROOT / "CMakeLists.txt", *(p for p in (ROOT / "csrc").rglob("*") if p.is_file())]
    if missing := [str(p.relative_to(ROOT)) for p in needed if p.relative_to(ROOT) not in inside]:
        sys.exit(f"error: {archive.name} lacks {', '.join(missing)}: add them to MANIFEST.in")
    return archive


def build_wheel(source: Path, folder: Path, **environment: str) -> Path:
    """Build a wheel of a folder or an archive, in the environment of this Python."""
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", folder)
    output_of(sys.executable, "-m", "pip", "wheel", *options, source, env={**os.environ, **environment})
    (wheel,) = folder.glob("*.whl")
    return wheel


def for_any_linux(wheel: Path) -> Path:
    """Give a wheel the tag of the oldest Linux that it runs on. torch brings its own libraries, which stay outside."""
    libraries = ("--exclude", "libtorch.so", "--exclude", "libtorch_cpu.so")
    output_of(sys.executable, "-m", "auditwheel", "repair", *libraries, "--wheel-dir", DIST, wheel)
    (found,) = DIST.glob(f"{wheel.name.split('-linux')[0]}-manylinux*.whl")
    return found


def restored_by(wheel: Path, kind: str, folder: Path) -> Path:
    """Restore the photograph with a wheel in an environment of its own, say how, and return the environment."""
    environment = folder / kind
    output_of(sys.executable, "-m", "venv", environment)
    python, command = environment / "bin" / "python", environment / "bin" / "rddm-fast"
    install = (python, "-m", "pip", "install", "--constraint", ROOT / "constraints.txt")
    output_of(*install, f"rddm_fast[cli] @ {wheel.as_uri()}", cwd=folder)

    alone = {"PATH": str(environment / "bin"), "HOME": str(folder), "CC": "/bin/false", "CXX": "/bin/false"}
    found = json.loads(output_of(command, "env", "--json", env=alone, cwd=folder))
    ops = found["backends"]
    compiled = [op for op, devices in ops.items() if devices["cpu"]["used"] == "cpp"]
    told = f"{wheel.name} is installed as {found['installed as']}, {len(compiled)} of {len(ops)} ops are compiled"
    if not found["installed as"].startswith(kind) or bool(compiled) != (kind == "binary"):
        sys.exit(f"error: {told}")

    (package,) = environment.glob("lib/python*/site-packages/rddm_fast")
    result = environment / "restored.png"
    output_of(command, "restore", package / PHOTO, "--output", result, "--model", "derain", env=alone, cwd=folder)
    print(f"{told}, and it restored {Path(PHOTO).name} without a compiler", flush=True)
    return environment


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = build_sources()
        pure = shutil.copy2(build_wheel(archive, folder / "pure-wheel", RDDM_FAST_BUILD="0"), DIST)
        binary = for_any_linux(build_wheel(ROOT, folder / "binary-wheel", RDDM_FAST_BUILD="1"))
        by = [restored_by(Path(pure), "pure-Python", folder), restored_by(binary, "binary", folder)]
        apart = int(output_of(by[0] / "bin" / "python", "-c", COMPARE, *(one / "restored.png" for one in by)))
    if apart > MOST_APART:
        sys.exit(f"error: the two results are {apart} levels of 255 apart, and {MOST_APART} may be")
    print(f"the two results are at most {apart} of 255 levels apart")
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size / 2**20:6.1f} MiB  dist/{path.name}")


if __name__ == "__main__":
    main()
