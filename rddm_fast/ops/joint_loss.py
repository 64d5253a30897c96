"""`rddm_fast::joint_loss`: the training loss and its gradients in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..theory.objective import Objective, targets
from . import backends
from .autocast import without_autocast
from .checks import DTYPES, check_alike, check_dtype, check_no_gradient, check_no_tangent, check_outputs
from .noise import noise as draw
from .noise import signed64

LOSS_TYPES = ("l1", "l2")


def _numel_factor(out0: Tensor) -> float:
    """Return the factor that the saved gradients lack: 1 / numel for float16, which cannot hold such small numbers."""
    return 1 / max(out0.numel(), 1) if out0.dtype == torch.float16 else 1.0


@without_autocast
def joint_loss_reference(
    out0: Tensor,
    out1: Tensor | None,
    I_0: Tensor,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    lam: Tensor | None,
    weight0: float,
    weight1: float,
    objective: int,
    squared: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op's definition in plain torch, with the schema's arguments: (loss, parts (2,), gradient0, gradient1).

    The parts are the mean distances of the two outputs from their targets, unweighted. A gradient is the derivative of
    the weighted sum by an output, in the output's dtype, laid out as `torch.empty_like(out0)`. For float16 outputs it
    lacks the factor 1 / numel. For a single output, gradient1 is empty.
    """
    compute = torch.float64 if out0.dtype == torch.float64 else torch.float32
    if noise is None:
        assert seed is not None
        noise = draw(I_0.shape, seed, stream, I_0.device)
    x = I_0.to(compute)
    I_res = -x if I_in is None else I_in.to(compute) - x
    outputs = [out0] if out1 is None else [out0, out1]
    weights: list[Any] = [weight0, weight1] if lam is None else [lam.to(compute), 1 - lam.to(compute)]
    parts, gradients = [], []
    scale = 1.0 if out0.dtype == torch.float16 else 1 / max(out0.numel(), 1)
    for out, target, weight in zip(
        outputs, targets(Objective(objective), x, I_res, noise.to(compute)), weights, strict=False
    ):
        d = out.to(compute) - target
        parts.append((d * d if squared else d.abs()).mean())
        derivative = 2 * d if squared else torch.where(d.isnan(), d, d.sign())
        gradients.append(torch.empty_like(out0).copy_(weight * scale * derivative))
    if out1 is None:
        loss = weights[0] * parts[0]
        parts.append(torch.zeros_like(parts[0]))
        gradients.append(out0.new_empty(0))
    else:
        loss = weights[0] * parts[0] + weights[1] * parts[1]
    return loss, torch.stack(parts), gradients[0], gradients[1]


def _fake(out0: Tensor, out1: Tensor | None, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = torch.float64 if out0.dtype == torch.float64 else torch.float32
    second = out0.new_empty(0) if out1 is None else torch.empty_like(out0)
    return out0.new_empty((), dtype=wide), out0.new_empty(2, dtype=wide), torch.empty_like(out0), second


@without_autocast
def joint_loss_backward_reference(gradient0: Tensor, gradient1: Tensor | None, by_loss: Tensor, factor: float) -> None:
    """Multiply both gradients in place by `by_loss * factor`, which is usually 1.

    In place, because the gradients are all the memory that the loss takes.
    """
    if by_loss.device.type == "cpu" and float(by_loss) * factor == 1:
        return
    gradient0.mul_(by_loss * factor)
    if gradient1 is not None:
        gradient1.mul_(by_loss * factor)


JOINT_LOSS = backends.define(
    "joint_loss",
    "(Tensor out0, Tensor? out1, Tensor I_0, Tensor? I_in, Tensor? noise, int? seed, int stream, "
    "Tensor? lam, float weight0, float weight1, int objective, bool squared) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=joint_loss_reference,
    triton="joint_loss:joint_loss",
    fake=_fake,
)
JOINT_LOSS_BACKWARD = backends.define(
    "joint_loss_backward_",
    "(Tensor(a!) gradient0, Tensor(b!)? gradient1, Tensor by_loss, float factor) -> ()",
    reference=joint_loss_backward_reference,
    triton="joint_loss:joint_loss_backward",
    fake=lambda *_: None,
    lacking=("cpp",),
)


class _JointLoss(torch.autograd.Function):
    """Autograd's view of the op: forward computes and saves the gradients, backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, out0: Tensor, out1: Tensor | None, lam: Tensor | None, ops: Any, weights: Any, arguments: Any
    ) -> tuple[Tensor, Tensor]:
        I_0, I_in, noise, seed, stream, objective, squared = arguments
        run, ctx.scale_in_place = ops
        loss, parts, gradient0, gradient1 = run(
            out0, out1, I_0, I_in, noise, seed, stream, lam, *weights, objective, squared
        )
        ctx.save_for_backward(gradient0, gradient1, parts)
        ctx.two, ctx.factor, ctx.learnt = out1 is not None, _numel_factor(out0), lam is not None
        ctx.used = False
        ctx.mark_non_differentiable(parts)
        ctx.set_materialize_grads(False)  # else autograd fills a gradient of the parts with zeros: one more launch
        return loss, parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor | None, _by_parts: None) -> tuple[Tensor | None, ...]:
        if by_loss is None:  # what follows the loss has no gradient
            return (None,) * 6
        gradient0, second, parts = ctx.saved_tensors
        gradient1 = second if ctx.two else None
        if torch.compiler.is_compiling():
            gradient0 = gradient0 * (by_loss * ctx.factor)
            gradient1 = None if gradient1 is None else gradient1 * (by_loss * ctx.factor)
        else:
            if ctx.used:
                raise RuntimeError(
                    "joint_loss frees its gradients in backward: call joint_loss again before a second backward"
                )
            ctx.used = True
            ctx.scale_in_place(gradient0, gradient1, by_loss, ctx.factor)
        by_lam = by_loss * (parts[0] - parts[1]) if ctx.learnt else None
        return gradient0, gradient1, by_lam, None, None, None


def joint_loss(
    out0: Tensor,
    out1: Tensor | None,
    I_0: Tensor,
    I_in: Tensor | None = None,
    *,
    objective: Objective | str | int,
    lam: float | Tensor = 0.5,
    loss_type: str = "l1",
    noise: Tensor | None = None,
    seed: int | None = None,
    stream: int = 0,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the joint loss of RDDM (Liu et al., CVPR 2024, L_auto) and, in the same pass, its gradients:

        lam mean |out0 - target0| + (1 - lam) mean |out1 - target1|

    The targets are the objective's (`theory.objective.targets`): for pred_res_noise the residual I_in - I_0 and the
    noise. For an objective with one output the loss is its mean distance alone, and `lam` is not used.

    Args:
        out0, out1: the network's outputs, of I_0's shape and dtype, or both bfloat16 or both float16 beside a float32
            I_0. `out1` is given exactly where the objective has two outputs.
        I_0: clean images, in float32, bfloat16 or float16 (float64: on the CPU only).
        I_in: degraded images of I_0's shape and dtype. None means 0, as in generation.
        objective: what the outputs mean, an `Objective` or its name.
        lam: the weight of the first distance, 0 to 1: a number, or a float32 tensor of one element, which gets a
            gradient. On a GPU the tensor's range is not checked, because that would stall the queue.
        loss_type: "l1", or "l2" for the squared distance.
        noise: the noise that I_t was made with. Pass either this or `seed`.
        seed, stream: the integers that `forward_diffuse` was given. The kernel draws the noise again.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best one available on the device.

    Returns:
        (loss, parts): a scalar, and the two unweighted mean distances (2,), which carry no gradient. Both are float32
        (float64 for float64). The same input gives the same bits for any number of threads.

    Raises:
        ValueError: shapes, devices or numbers that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an image or the noise requires a gradient, or backward is called a second time.
    """
    objective = Objective.parse(objective)
    _check(out0, out1, I_0, I_in, noise, seed, objective, lam, loss_type)
    ops = JOINT_LOSS(impl, out0.device), JOINT_LOSS_BACKWARD("reference" if impl == "cpp" else impl, out0.device)
    check_no_gradient("joint_loss by its images", I_0, I_in, noise, advice="detach them")
    learnt = lam if isinstance(lam, Tensor) and objective.outputs == 2 else None
    check_no_tangent("joint_loss", out0, out1, learnt)
    weights = (1.0, 0.0) if objective.outputs == 1 else (0.0, 0.0) if learnt is not None else (lam, 1 - lam)
    arguments = (
        *(I_0, I_in, noise, None if seed is None else signed64(seed), signed64(stream)),
        *(int(objective), loss_type == "l2"),
    )
    loss, parts = _JointLoss.apply(out0, out1, None if learnt is None else learnt.reshape(()), ops, weights, arguments)
    return loss, parts


def _check(
    out0: Tensor,
    out1: Tensor | None,
    I_0: Tensor,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    objective: Objective,
    lam: float | Tensor,
    loss_type: str,
) -> None:
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type is 'l1' or 'l2', not {loss_type!r}")
    check_dtype("I_0", I_0, DTYPES)
    check_outputs(objective, out0, out1, "I_0", I_0, "pass None")
    check_alike("I_0", I_0, out0, out1=out1, I_in=I_in, noise=noise)
    if (noise is None) == (seed is None):
        raise ValueError("pass either noise, the draw that I_t was made with, or the seed that it was drawn from")
    if isinstance(lam, Tensor):
        if lam.numel() != 1 or lam.dtype != torch.float32 or lam.device != I_0.device:
            raise ValueError(
                f"lam must be one float32 number on {I_0.device}, "
                f"not {lam.dtype} of shape {tuple(lam.shape)} on {lam.device}"
            )
        if lam.device.type != "cpu" or torch.compiler.is_compiling():
            return
        lam = float(lam.detach())
    if not 0 <= lam <= 1:
        raise ValueError(f"lam is {lam}: it weighs the two distances and must be between 0 and 1")
