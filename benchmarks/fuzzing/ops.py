"""Calls of the ops that write in place, whose arguments lie anywhere in memory, also in each other's.

Each result is compared with the definition in plain torch on clones of the arguments. A call is right, refused with a
sentence, or wrong.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import StepTable, range_null_step_, reverse_step_, spectral_step_
from rddm_fast.theory.objective import Objective

from .contract import Found

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
PAIRS = ((F32, F32), (F32, BF16), (F32, F16), (BF16, BF16), (F16, F16))
NUMBERS = dict(alpha_bar=0.6, beta_bar=0.3, k_t=0.7, k_res=0.2, k_noise=0.1, k_0=0.3)
TABLE = StepTable.of([{**NUMBERS, "sigma": 0.2}, NUMBERS])
BLOCKS = dict(
    root_a_t=0.8, sigma_t=0.6, n_0=0.9, n_e=0.1, n_z=0.2, r_0=0.3, r_e=0.2, r_z=0.1, k_y=0.5
)  # every term of range_null_step
ROOM = 1 << 13  # elements of each dtype's memory


@dataclass
class Call:
    """One call: what runs it, the arguments that it may place anywhere, and those that it writes."""

    op: str
    run: Callable[..., Any]
    tensors: dict[str, Tensor]
    written: tuple[str, ...]
    others: dict[str, Any]
    places: dict[str, str]

    def __str__(self) -> str:
        where = ", ".join(f"{name}: {place}" for name, place in self.places.items())
        return f"{self.op}({where}; {self.others})"


class Places:
    """Makes tensors that lie in one memory per dtype: apart, or over the ones made before."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
        noise = torch.randn(ROOM, generator=generator)
        self.memory = {dtype: noise.to(dtype) for dtype in (F32, BF16, F16)}
        self.free = dict.fromkeys(self.memory, 64)
        self.made: list[tuple[torch.dtype, tuple[int, ...], int]] = []  # dtype, strides, offset
        self.described: dict[str, str] = {}

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, layouts: Sequence[str]) -> Tensor:
        """Return a view of that shape, in one of these layouts."""
        layout = self.rng.choice(layouts)
        strides = strides_of(shape, layout)
        earlier = [(s, o) for d, s, o in self.made if d == dtype and len(s) == len(shape)]
        if earlier and self.rng.random() < 0.3:
            like, offset = self.rng.choice(earlier)
            strides = like if self.rng.random() < 0.8 else strides
            near = (0, 0, 0, 1, -1, 3, -5, math.prod(shape[-2:]), shape[1] * math.prod(shape[2:]), shape[1])
            offset = max(0, offset + self.rng.choice(near))
        else:
            offset = self.free[dtype]
            self.free[dtype] += reach(shape, strides) + self.rng.randrange(3)
        self.made.append((dtype, strides, offset))
        self.described[name] = f"{dtype} {shape} by {strides} at {offset}"
        return self.memory[dtype].as_strided(shape, strides, offset)


def reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """The elements of memory that such a tensor takes."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)


def strides_of(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The strides of a layout: of a whole tensor, of channels of one with 2 more, transposed, or of one expanded."""
    order, sizes = list(range(len(shape))), list(shape)
    if "last" in layout and len(shape) == 4:
        order = [0, 2, 3, 1]
    if layout == "transposed":
        order.reverse()
    if "channels of" in layout:
        sizes[1] += 2
    strides, stride = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = stride
        stride *= max(1, sizes[d])
    if layout == "expanded":
        strides[max(range(len(shape)), key=lambda d: shape[d])] = 0
    return tuple(strides)


WHOLE = ("contiguous", "contiguous", "last")
PLACED = (*WHOLE, "channels of contiguous", "channels of last", "expanded")
ANY = (*PLACED, "transposed")


def reverse_step_call(rng: random.Random, places: Places) -> Call:
    image, output = rng.choice(PAIRS)
    shape = (rng.randrange(1, 4), rng.randrange(1, 4), rng.randrange(1, 6), rng.randrange(0, 7))
    objective = rng.choice(list(Objective))
    layouts = {"I_t": WHOLE, "next_input": PLACED, "clean": PLACED}
    of_image = ("I_t", "I_in", "noise")
    names = ["I_t", "out0", *(["out1"] if objective.outputs == 2 else []), "I_in", "noise"]
    names += [name for name in ("next_input", "clean") if rng.random() < 0.6]
    tensors = {
        name: places.tensor(name, shape, image if name in of_image else output, layouts.get(name, ANY))
        for name in rng.sample(names, len(names))
    }
    written = tuple(name for name in ("I_t", "next_input", "clean") if name in tensors)
    others = {"objective": objective, "table": TABLE, "step": 0}
    return Call("reverse_step_", reverse_step_, tensors, written, others, places.described)


def range_null_step_call(rng: random.Random, places: Places) -> Call:
    image, output = rng.choice(PAIRS)
    factor, channels = rng.choice((1, 2)), rng.randrange(1, 4)
    shape = (rng.randrange(1, 4), channels, factor * rng.randrange(1, 4), factor * rng.randrange(0, 4))
    names = ["x_t", "epsilon", "pinv_y", "noise"]
    tensors = {
        name: places.tensor(name, shape, output if name == "epsilon" else image, WHOLE if name == "x_t" else ANY)
        for name in rng.sample(names, len(names))
    }
    weights = rng.choice((None, [0.3, 0.6, 0.1][:channels]))
    mask = rng.choice((None, torch.arange(math.prod(shape[2:])).view(shape[2:]) % 3 > 0))
    others = {**BLOCKS, "factor": factor, "weights": weights, "mask": mask}
    return Call("range_null_step_", range_null_step_, tensors, ("x_t",), others, places.described)


def spectral_step_call(rng: random.Random, places: Places) -> Call:
    dtype = rng.choice((F32, BF16, F16))
    batch, size = rng.randrange(1, 4), rng.randrange(0, 50)
    names = ["x", "epsilon", "y_bar", "noise", *(["clean"] if rng.random() < 0.6 else [])]
    tensors = {}
    for name in rng.sample(names, len(names)):
        shape = (rng.choice((1, batch)) if name == "y_bar" else batch, size)
        layouts = ("contiguous",) if name in ("x", "clean") else ("contiguous", "channels of", "transposed", "expanded")
        tensors[name] = places.tensor(name, shape, dtype, layouts)
    s = torch.linspace(0, 2, max(size, 1))[:size].reshape(1, size)
    others = dict(s=s, a_t=0.5, a_s=0.7, sigma_y=0.4, eta=0.6, eta_b=0.9)
    written = tuple(name for name in ("x", "clean") if name in tensors)
    return Call("spectral_step_", spectral_step_, tensors, written, others, places.described)


def joint_loss_backward_call(rng: random.Random, places: Places) -> Call:
    shape = (rng.randrange(1, 4), rng.randrange(1, 4), rng.randrange(1, 6), rng.randrange(0, 7))
    dtype = rng.choice((F32, BF16, F16))
    tensors = {name: places.tensor(name, shape, dtype, PLACED) for name in ("gradient0", "gradient1")}

    def run(gradient0: Tensor, gradient1: Tensor, impl: str | None) -> None:
        torch.ops.rddm_fast.joint_loss_backward_(gradient0, gradient1, torch.tensor(2.0), 1.5)

    return Call("joint_loss_backward_", run, tensors, ("gradient0", "gradient1"), {}, places.described)


CALLS = {
    "reverse_step_": reverse_step_call,
    "range_null_step_": range_null_step_call,
    "spectral_step_": spectral_step_call,
    "joint_loss_backward_": joint_loss_backward_call,
}
"""Every op that writes in place."""


def verdict(rng: random.Random, op: str, impl: str | None) -> tuple[str, Call]:
    """Make a call of `op` and return "right", "refused" or "wrong", and the call."""
    call = CALLS[op](rng, Places(rng))
    cloned = {name: x.clone(memory_format=torch.contiguous_format) for name, x in call.tensors.items()}
    with torch.no_grad():
        call.run(**cloned, **call.others, impl="reference")
        try:
            call.run(**call.tensors, **call.others, impl=impl)
        except (RuntimeError, ValueError):
            return "refused", call
    for name in call.written:
        ours, expected = call.tensors[name], cloned[name]
        eps = torch.finfo(ours.dtype).eps
        if not torch.allclose(ours.float(), expected.float(), rtol=4 * eps, atol=max(1e-5, 4 * eps), equal_nan=True):
            return "wrong", call
    return "right", call


def call(rng: random.Random, folder: Path) -> Found:
    """Make a call of a drawn op, on the best implementation or on the definition; it needs no folder."""
    op, impl = rng.choice(list(CALLS)), rng.choice((None, "reference"))
    answer, made = verdict(rng, op, impl)
    return Found(op, answer, f"{made}, impl={impl}" if answer == "wrong" else "")
