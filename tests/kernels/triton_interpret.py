"""Run by test_triton.py in a process of its own, because triton reads TRITON_INTERPRET when imported.

Each kernel on CPU tensors, in Triton's interpreter, against its reference; what was found is printed as JSON.
"""

from __future__ import annotations

import itertools
import json

import torch
from triton_cases import DTYPES, PAIRS

from rddm_fast.diffusion.unet import LinearAttention
from rddm_fast.fast.folded import PixelsFirstLinearAttention
from rddm_fast.ops import (
    StepTable,
    channel_norm,
    channel_norm_reference,
    forward_diffuse,
    group_norm_silu,
    group_norm_silu_reference,
    joint_loss,
    linear_attention,
    linear_attention_reference,
    reverse_step,
    reverse_step_,
)
from rddm_fast.ops.noise import noise as reference_noise
from rddm_fast.theory.objective import Objective

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


def row_of(
    case: str, ours: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, *, sums: bool = False
) -> dict[str, object]:
    """What a test compares: ours may lose a rounding in the result's dtype more than plain torch, and with `sums` those
    of float32 on the way (sums in another order, or sine and logarithm of drawn noise)."""
    info = torch.finfo(ours.dtype)
    return {
        "case": case,
        "error": (ours.double() - exact).abs().max().item(),
        "plain_error": (plain.double() - exact).abs().max().item(),
        "rounding": (info.eps + 1e-6 * sums) * exact.abs().max().item() + info.tiny * info.eps,
        "same_layout": ours.stride() == plain.stride() and ours.dtype == plain.dtype,
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
                rows.append(row_of(f"{objective.name} {image} {output} {step} {layout}", ours, plain, exact))
    return rows


def in_place() -> list[dict[str, object]]:
    """reverse_step_ for every pair of dtypes, both layouts and both kinds of noise: what it writes against float64."""
    table = StepTable.of([{"alpha_bar": 0.6, "beta_bar": 0.3, "one_minus_alpha_bar": 0.4, **s} for s in STEPS.values()])
    rows = []
    for (image, output), layout, drawn, side in itertools.product(
        PAIRS, ("contiguous", "channels_last"), (0, 1), (7, 32)
    ):
        torch.manual_seed(0)
        for number, step in enumerate(STEPS.values()):
            objective = (Objective.pred_res_noise, Objective.pred_noise, Objective.pred_x0_noise)[number]
            I_t, I_in, z = (LAYOUTS[layout](torch.randn(2, 4, side, side).to(DTYPES[image])) for _ in range(3))
            outputs = [torch.randn(2, 4, side, side).to(DTYPES[output]) for _ in range(objective.outputs)]
            if drawn:
                z = reference_noise(I_t.shape, 9, 5 + number)
            numbers = dict(alpha_bar=0.6, beta_bar=0.3, objective=objective, **step)
            wide = [x.double() for x in outputs]
            images = {"I_in": I_in.double(), "noise": z.double()}
            exact = reverse_step(I_t.double(), *wide, **images, **numbers, impl="reference")
            numbers |= dict(k_t=0.0, k_res=0.0, k_noise=0.0, k_0=1.0, sigma=0.0)
            exact_0 = reverse_step(I_t.double(), *wide, **images, **numbers, impl="reference")
            found = {}
            for impl in ("triton", "reference"):
                buffer = LAYOUTS[layout](torch.full((2, 8, side, side), 5.0).to(DTYPES[output]))
                given = {"seed": torch.tensor([9]), "stream": 5} if drawn else {"noise": z}
                image_ = I_t.clone()
                clean = torch.empty_like(outputs[0])
                written = {"next_input": buffer[:, :4], "clean": clean}
                step_ = torch.tensor([number])
                result = reverse_step_(
                    image_,
                    *outputs,
                    I_in=I_in,
                    objective=objective,
                    table=table,
                    step=step_,
                    impl=impl,
                    **given,
                    **written,
                )
                assert result is image_ and (buffer[:, 4:] == 5).all()
                found[impl] = (image_, buffer[:, :4], clean)
            for ours, plain, right in zip(found["triton"], found["reference"], (exact, exact, exact_0), strict=True):
                case = f"{objective.name} {image} {output} {layout} {drawn} {side}"
                rows.append(row_of(case, ours, plain, right))
    return rows


def normalised() -> list[dict[str, object]]:
    """group_norm_silu for every dtype, two layouts and shapes of one and of several pieces: errors against float64."""
    rows = []
    shapes = [((2, 24, 9, 7), 8), ((1, 16, 40, 30), 2), ((3, 5, 1, 1), 5), ((1, 8, 64, 64), 1)]
    for dtype, layout, (shape, groups), adds in itertools.product(DTYPES, LAYOUTS, shapes, (False, True)):
        torch.manual_seed(0)
        x, rest = (LAYOUTS[layout](torch.randn(shape).to(DTYPES[dtype])) for _ in range(2))
        weight, bias, table = torch.randn(shape[1]), torch.randn(shape[1]), torch.randn(shape[0], 2 * shape[1])
        given = {"scale_shift": table, "residual": rest} if adds else {}
        ours, plain = (group_norm_silu(x, weight, bias, groups, impl=i, **given) for i in ("triton", "reference"))
        wide = [None if v is None else v.double() for v in (given.get("scale_shift"), given.get("residual"))]
        exact = group_norm_silu_reference(x.double(), weight.double(), bias.double(), groups, 1e-5, *wide)
        rows.append(row_of(f"{dtype} {layout} {shape} {adds}", ours, plain, exact, sums=True))
    return rows


def network_ops() -> list[dict[str, object]]:
    """channel_norm and linear_attention for every dtype, layout and several shapes: errors against float64."""
    from rddm_fast.kernels import linear_attention as kernels

    kernels.PIECES = 4  # so that a small image has some pieces of several tiles, of which the last has some left over
    rows = []
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        for shape in ((2, 24, 9, 7), (1, 64, 40, 30), (3, 5, 1, 1), (1, 1, 3, 4), (1, 300, 2, 9)):
            torch.manual_seed(0)
            x, g = LAYOUTS[layout]((2 * torch.randn(shape) + 0.5).to(DTYPES[dtype])), torch.randn(shape[1])
            ours, plain = (channel_norm(x, g, impl=i) for i in ("triton", "reference"))
            exact = channel_norm_reference(x.double(), g, 1e-5)
            rows.append(row_of(f"norm {dtype} {layout} {shape}", ours, plain, exact, sums=True))
        for b, heads, features, h, w in ((1, 2, 32, 9, 7), (1, 1, 32, 40, 30), (3, 2, 5, 1, 1), (2, 1, 1, 20, 15)):
            torch.manual_seed(0)
            qkv = LAYOUTS[layout]((2 * torch.randn(b, 3 * heads * features, h, w)).to(DTYPES[dtype]))
            ours, plain = (linear_attention(qkv, heads, impl=i) for i in ("triton", "reference"))
            case = f"attention {dtype} {layout} {b} {heads} {features} {h} {w}"
            rows.append(row_of(case, ours, plain, linear_attention_reference(qkv.double(), heads), sums=True))
    return rows


def folded() -> float:
    """The greatest difference between a folded linear attention by our kernels and the published module."""
    torch.manual_seed(0)
    module = LinearAttention(24).eval()
    ours = PixelsFirstLinearAttention(module)
    ours.impl = "triton"
    x = torch.randn(2, 24, 9, 7).to(memory_format=torch.channels_last)
    with torch.no_grad():
        return (ours(x) - module(x)).abs().max().item()


def network_ops_non_finite() -> bool:
    """Whether NaN and infinity come out of channel_norm and linear_attention where they come out of the references."""
    for bad, layout in ((float("nan"), "contiguous"), (float("inf"), "channels_last"), (-float("inf"), "sliced")):
        torch.manual_seed(0)
        x, g = LAYOUTS[layout](torch.randn(2, 8, 5, 7)), torch.randn(8)
        x[1, 2, 3, 4] = bad
        pairs = [[channel_norm(x, g, impl=i) for i in ("triton", "reference")]]
        # Of a query, a key and a value: one pixel, a whole piece, all.
        for channel, pixels in itertools.product((3, 19, 35), (slice(21, 22), slice(0, 128), slice(0, 300))):
            qkv = torch.randn(1, 48, 300, 1)
            qkv[0, channel, pixels] = bad
            pairs.append([linear_attention(LAYOUTS[layout](qkv), 2, impl=i) for i in ("triton", "reference")])
        if not all(torch.allclose(*pair, rtol=1e-4, atol=1e-7, equal_nan=True) for pair in pairs):
            return False
    return True


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
        rows.append(row_of(f"{dtype} {layout} {shape} {drawn}", ours, plain, exact, sums=drawn))
    return rows


def losses() -> list[dict[str, object]]:
    """joint_loss for every objective, pair of dtypes and loss: errors against the float64 reference."""
    rows = []
    for objective, (image, output), loss_type in itertools.product(Objective, PAIRS, ("l1", "l2")):
        torch.manual_seed(int(objective))
        layout = LAYOUTS["channels_last" if loss_type == "l1" else "sliced"]
        I_0, I_in, noise = (layout(torch.randn(2, 3, 7, 11)).to(DTYPES[image]) for _ in range(3))
        outputs = [torch.randn(2, 3, 7, 11).to(DTYPES[output]) for _ in range(objective.outputs)] + [None]
        for drawn in (False, True):
            given = dict(seed=3, stream=1) if drawn else dict(noise=noise)
            found = []
            for impl, dtype in (("triton", None), ("reference", None), ("reference", torch.float64)):
                wide = [x if x is None else x.detach().to(dtype or x.dtype) for x in (*outputs[:2], I_0, I_in)]
                for x in wide[:2]:
                    if x is not None:
                        x.grad = None
                        x.requires_grad_()
                kind = {k: v.to(dtype) if dtype and isinstance(v, torch.Tensor) else v for k, v in given.items()}
                lam = torch.tensor(0.3, requires_grad=True)
                if dtype is not None:
                    lam = 0.3
                loss, parts = joint_loss(*wide, objective=objective, loss_type=loss_type, lam=lam, impl=impl, **kind)
                loss.backward()
                found.append([loss, parts, *(x.grad for x in wide[:2] if x is not None)])
            for ours, plain, exact in zip(*found, strict=True):
                case = f"{objective.name} {image} {output} {loss_type} {drawn} {tuple(ours.shape)}"
                rows.append(row_of(case, ours, plain, exact, sums=True))
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


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "rows": interpret(),
                "non_finite": non_finite(),
                "drawn": drawn(),
                "in_place": in_place(),
                "diffused": diffused(),
                "normalised": normalised(),
                "network_ops": network_ops(),
                "network_ops_non_finite": network_ops_non_finite(),
                "folded": folded(),
                "losses": losses(),
            }
        )
    )
