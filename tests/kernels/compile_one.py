"""Compile one of Triton's kernels for a GPU that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import triton
from oracle import BF16, F16, F32
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

DTYPES = {"fp32": F32, "bf16": BF16, "fp16": F16}


def compile_one(
    path: Path,
    kernel: Any,
    capability: int,
    image: str,
    output: str,
    constants: dict[str, object],
    types: dict[str, Any],
    config: dict[str, int],
    aligned: bool = False,
    divisible: tuple[str, ...] = ("numel",),
) -> None:
    """Compile a kernel for images in `image` and outputs in `output`, aligned, and write its PTX and cubin.

    With `aligned` every integer is taken to divide by 16, as sizes and strides of the networks' images do. Of the
    others those in `divisible` do, and the addresses of tables in it.
    """
    if "block" in config:
        contiguous = {"pixels_together": False, "in_fours": 0, "narrow": True, "share": config["block"]}
        layout = {name: value for name, value in contiguous.items() if name in kernel.arg_names}
        constants = {**layout, "block": config["block"], **constants}
    known = {**types, "numel": "i32"}
    signature = {}
    for name in (parameter.name for parameter in kernel.params):
        stored = (
            "*" + (output if name.startswith(("out", "gradient")) else image) if name.endswith("_pointer") else "i64"
        )
        if aligned and stored == "i64":
            stored = "i32"
        signature[name] = "constexpr" if name in constants else known.get(name, stored)
    divides = {
        (i,)
        for i, (name, kind) in enumerate(signature.items())
        if name in divisible
        or (isinstance(kind, str) and kind.startswith("*") and name not in types)
        or (aligned and kind in ("i32", "i64"))
    }
    divides |= {(i, 0) for i, kind in enumerate(signature.values()) if isinstance(kind, tuple) and kind[0][0] == "*"}
    attributes = {place: [["tt.divisibility", 16]] for place in divides}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config["num_warps"]},
    )
    path.with_suffix(".cubin").write_bytes(compiled.asm["cubin"])
    path.with_suffix(".ptx").write_text(compiled.asm["ptx"])
