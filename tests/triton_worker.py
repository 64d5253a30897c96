"""Run by test_triton.py in processes of its own: triton reads TRITON_INTERPRET when imported.

`interpret` runs the kernel on CPU tensors against the reference; `compile DIRECTORY` compiles it for GPUs
that are not there and writes the machine code to DIRECTORY. Both print what they found as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch

from rddm_fast.objective import Objective
from rddm_fast.ops import forward_diffuse, reverse_step
from rddm_fast.ops.noise import noise as reference_noise

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
PAIRS = [("fp32", "fp32"), ("fp32", "bf16"), ("fp32", "fp16"), ("bf16", "bf16"), ("fp16", "fp16")]
STEPS = {
    "generalised": dict(k_t=1.0, k_res=-0.1, k_noise=-0.3, k_0=0.0, sigma=0.2),
    "last": dict(k_t=0.0, k_res=0.0, k_noise=0.0, k_0=1.0, sigma=0.0),
    "ancestral": dict(k_t=0.7, k_res=0.2, k_noise=0.0, k_0=0.3, sigma=0.1),
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat((x, x), dim=3)[..., : x.shape[3]],
}


def interpret() -> list[dict[str, object]]:
    """Every objective, pair of dtypes, step and layout: largest errors against the float64 reference."""
    rows = []
    for objective in Objective:
        for image, output in PAIRS:
            for step, layout in zip(STEPS, LAYOUTS, strict=True):
                torch.manual_seed(int(objective))
                draw = [LAYOUTS[layout](torch.randn(2, 3, 7, 11)) for _ in range(5)]
                I_t, I_in, noise = (x.to(DTYPES[image]) for x in draw[:3])
                out0, out1 = (x.to(DTYPES[output]) for x in draw[3:])
                arguments = dict(
                    objective=objective,
                    alpha_bar=0.6,
                    beta_bar=0.3,
                    I_in=I_in,
                    noise=noise,
                    **STEPS[step],
                )
                outputs = [out0] + [out1] * (objective.outputs - 1)
                wide = [x.double() for x in outputs]
                exact = reverse_step(
                    I_t.double(),
                    *wide,
                    **{**arguments, "I_in": I_in.double(), "noise": noise.double()},
                    impl="reference",
                )
                plain = reverse_step(I_t, *outputs, **arguments, impl="reference")
                ours = reverse_step(I_t, *outputs, **arguments, impl="triton")
                rows.append(
                    {
                        "case": f"{objective.name} {image} {output} {step} {layout}",
                        "error": (ours.double() - exact).abs().max().item(),
                        "plain_error": (plain.double() - exact).abs().max().item(),
                        "rounding": torch.finfo(DTYPES[image]).eps * exact.abs().max().item(),
                        "same_layout": ours.stride() == plain.stride() and ours.dtype == plain.dtype,
                    }
                )
    return rows


def diffused() -> list[dict[str, object]]:
    """forward_diffuse for every dtype, layout and kind of noise: errors against the float64 reference."""
    rows = []
    tables = torch.linspace(0, 1, 50), torch.linspace(0, 0.5, 50)
    for dtype, layout, shape, drawn in itertools.product(
        ("fp32", "bf16", "fp16"), LAYOUTS, ((2, 3, 7, 11), (3, 2, 16, 32)), (False, True)
    ):
        torch.manual_seed(0)
        I_0, I_in, noise = (LAYOUTS[layout](torch.randn(shape)).to(DTYPES[dtype]) for _ in range(3))
        t = torch.randint(0, 50, shape[:1])
        seed = 77 if drawn else None
        exact = forward_diffuse(
            I_0.double(),
            I_in.double(),
            t,
            *tables,
            noise=None if drawn else noise.double(),
            seed=seed,
            impl="reference",
        )
        arguments = (I_0, I_in, t, *tables)
        plain, ours = (
            forward_diffuse(*arguments, noise=None if drawn else noise, seed=seed, impl=impl)
            for impl in ("reference", "triton")
        )
        rows.append(
            {
                "case": f"{dtype} {layout} {shape} {drawn}",
                "error": (ours.double() - exact).abs().max().item(),
                "plain_error": (plain.double() - exact).abs().max().item(),
                "rounding": torch.finfo(DTYPES[dtype]).eps * exact.abs().max().item() + 1e-6 * drawn,
                "same_layout": ours.stride() == plain.stride() and ours.dtype == plain.dtype,
            }
        )
    return rows


def drawn() -> float:
    """The greatest difference between the noise that the kernel draws and the reference's."""
    differences = []
    for shape in ((2, 3, 5, 7), (1, 3, 32, 33), (11,)):
        like = [torch.zeros(shape)]
        if len(shape) == 4:
            like += [
                torch.zeros(shape).to(memory_format=torch.channels_last),
                torch.zeros(shape[::-1]).permute(3, 2, 1, 0),
            ]
        for zero in like:
            for seed, stream in ((0, 0), (5, -1), (2**63 + 99, 2**33 + 1)):
                ours = reverse_step(
                    *(zero, zero, zero),
                    objective=Objective.pred_res_noise,
                    **dict(alpha_bar=0.5, beta_bar=0.5, k_t=0.0, k_res=0.0, k_noise=0.0, k_0=0.0, sigma=1.0),
                    seed=seed,
                    stream=stream,
                    impl="triton",
                )
                differences.append((ours - reference_noise(shape, seed, stream)).abs().max().item())
    return max(differences)


def non_finite() -> bool:
    """Whether NaN and infinity come out where they come out of the reference."""
    x = torch.tensor([0.5, float("nan"), float("inf"), -float("inf")]).repeat(8)
    out0, out1 = x.roll(1), x.roll(2)
    for objective in Objective:
        outputs = [out0] + [out1] * (objective.outputs - 1)
        for beta_bar in (0.3, 0.0):
            for step in STEPS.values():
                arguments = dict(objective=objective, alpha_bar=0.6, beta_bar=beta_bar, I_in=x, noise=out0, **step)
                ours = reverse_step(x, *outputs, **arguments, impl="triton")
                plain = reverse_step(x, *outputs, **arguments, impl="reference")
                if not torch.allclose(ours, plain, equal_nan=True):
                    return False
    return True


def compile_all(directory: Path) -> list[dict[str, object]]:
    """Every pair of dtypes and form of read-out, for sm_80 and sm_90, with all pointers 16-byte aligned."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rddm_fast.kernels.forward_diffuse import forward_diffuse_kernel
    from rddm_fast.kernels.images import launch_config
    from rddm_fast.kernels.reverse_step import COEFFICIENTS, NOISE, read_out, reverse_step_kernel

    names = [parameter.name for parameter in reverse_step_kernel.params]
    rows = []
    for capability in (80, 90):
        for image, output in PAIRS:
            config = launch_config(DTYPES[output].itemsize)
            for objective, draws in (
                (Objective.pred_res_noise, False),
                (Objective.pred_res_noise, True),
                (Objective.pred_x0_add_noise, False),
                (Objective.pred_noise, False),
            ):
                constants: dict[str, object] = {
                    **read_out(objective),
                    **dict.fromkeys(("adds_I_t", "adds_res", "adds_noise", "adds_I_0"), True),
                    "draws": draws,
                    "pixels_together": False,
                    "block": config["block"],
                }
                if draws:
                    constants["noise_pointer"] = None
                if objective.outputs == 1:
                    constants["out1_pointer"] = None
                if not objective.needs_input:
                    constants["I_in_pointer"] = None
                signature = {}
                for name in names:
                    if name in constants:
                        signature[name] = "constexpr"
                    elif name in COEFFICIENTS:
                        signature[name] = "fp32"
                    elif name in NOISE:
                        signature[name] = "i64"
                    elif name == "numel":
                        signature[name] = "i32"
                    else:
                        signature[name] = "*" + (output if name.startswith("out") else image)
                aligned = {
                    (i,): [["tt.divisibility", 16]]
                    for i, name in enumerate(names)
                    if signature[name].startswith("*") or name == "numel"
                }
                compiled = triton.compile(
                    ASTSource(reverse_step_kernel, signature, constants, aligned),
                    target=GPUTarget("cuda", capability, 32),
                    options={"num_warps": config["num_warps"]},
                )
                name = f"sm{capability}-{image}-{output}-{objective.name}{'-drawn' * draws}"
                (directory / f"{name}.cubin").write_bytes(compiled.asm["cubin"])
                (directory / f"{name}.ptx").write_text(compiled.asm["ptx"])
                rows.append(
                    {
                        "name": name,
                        "inputs": sum(kind.startswith("*") for kind in signature.values()) - 1,
                        "scalar_loads": 0,
                    }
                )
        for image in ("fp32", "bf16", "fp16"):
            for draws in (False, True):
                config = launch_config(DTYPES[image].itemsize)
                kernel = forward_diffuse_kernel
                constants = {"draws": draws, "pixels_together": False, "one_sample": True, "block": config["block"]}
                if draws:
                    constants["noise_pointer"] = None
                types = {"t_pointer": "*i64", "alpha_bar_pointer": "*fp32", "beta_bar_pointer": "*fp32", "numel": "i32"}
                signature = {
                    name: "constexpr"
                    if name in constants
                    else types.get(name, "*" + image if name.endswith("_pointer") else "i64")
                    for name in (parameter.name for parameter in kernel.params)
                }
                images = ("I_0_pointer", "I_in_pointer", "noise_pointer", "result_pointer", "numel")
                aligned = {
                    (i,): [["tt.divisibility", 16]]
                    for i, name in enumerate(signature)
                    if name in images and signature[name] != "constexpr"
                }
                compiled = triton.compile(
                    ASTSource(kernel, signature, constants, aligned),
                    target=GPUTarget("cuda", capability, 32),
                    options={"num_warps": config["num_warps"]},
                )
                name = f"sm{capability}-{image}-forward_diffuse{'-drawn' * draws}"
                (directory / f"{name}.cubin").write_bytes(compiled.asm["cubin"])
                (directory / f"{name}.ptx").write_text(compiled.asm["ptx"])
                rows.append({"name": name, "inputs": 2 if draws else 3, "scalar_loads": 3})  # t and the tables
    return rows


if __name__ == "__main__":
    if sys.argv[1] == "interpret":
        print(json.dumps({"rows": interpret(), "non_finite": non_finite(), "drawn": drawn(), "diffused": diffused()}))
    else:
        print(json.dumps(compile_all(Path(sys.argv[2]))))
