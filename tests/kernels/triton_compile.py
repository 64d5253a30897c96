"""Run by test_triton.py in a process of its own: `triton_compile.py DIRECTORY`.

Compiles each kernel for GPUs that are not there, and writes its PTX and its machine code to DIRECTORY; what was
compiled is printed as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import triton
from oracle import BF16, F16, F32
from oracle import PAIRS as TORCH_PAIRS
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rddm_fast.kernels.forward_diffuse import forward_diffuse_kernel
from rddm_fast.kernels.images import drawing_config, launch_config
from rddm_fast.kernels.inverse import range_null_step, walsh_hadamard
from rddm_fast.kernels.inverse.spectral_step import NUMBERS as SPECTRAL_NUMBERS
from rddm_fast.kernels.inverse.spectral_step import spectral_step_kernel
from rddm_fast.kernels.inverse.tacos_step import tacos_step_kernel
from rddm_fast.kernels.joint_loss import joint_loss_backward_kernel, joint_loss_kernel, means_kernel
from rddm_fast.kernels.networks import (
    attention_layer,
    channel_norm,
    conv_by_taps,
    group_norm_silu,
    linear_attention,
    norm_product,
    statistics,
    stem_conv,
)
from rddm_fast.kernels.objective import flags_of
from rddm_fast.kernels.reverse_step import NUMBERS, reverse_step_kernel
from rddm_fast.theory.objective import Objective

DTYPES = {"fp32": F32, "bf16": BF16, "fp16": F16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PAIRS = [(NAMES[image], NAMES[output]) for image, output in TORCH_PAIRS]


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


def compile_all(directory: Path) -> list[dict[str, object]]:
    """Every kernel and pair of dtypes, with stored and with drawn noise, for sm_80 and sm_90."""
    rows: list[dict[str, object]] = []
    for capability in (80, 90):
        for (image, output), (objective, draws) in itertools.product(
            PAIRS,
            (
                (Objective.pred_res_noise, False),
                (Objective.pred_res_noise, True),
                (Objective.pred_x0_add_noise, False),
                (Objective.pred_noise, False),
            ),
        ):
            constants: dict[str, object] = {
                **flags_of(objective),
                **{"draws": draws, **({"noise_pointer": None} if draws else {})},
                **({"out1_pointer": None} if objective.outputs == 1 else {}),
                **({} if objective.needs_input else {"I_in_pointer": None}),
            }
            inputs = 2 + objective.outputs - 1 + objective.needs_input + (not draws)
            config, types = launch_config(DTYPES[output].itemsize), {"numbers": ("fp32",) * NUMBERS.value}
            absent = dict.fromkeys(("table_pointer", "index_pointer", "seed_pointer", "next_input", "clean"))
            functional = {**constants, **absent, "next_input_packed": False, "clean_packed": False}
            in_place = {**constants, "numbers": None, "next_input_packed": True, "clean_packed": True}
            place = (f"*{output}", *("i32",) * 5)  # in the outputs' dtype
            read = dict.fromkeys(("index_pointer", "seed_pointer"), "*i64") | {"table_pointer": "*fp32"}
            read |= {"next_input": place, "clean": place}
            # Of a row of the table what the objective needs, the index, and the seed where noise is drawn.
            read_out_needs = {Objective.pred_res_noise: 2, Objective.pred_x0_add_noise: 0, Objective.pred_noise: 3}
            # Where there is a degraded image, its factor k_in too.
            of_input = objective.needs_input
            scalars = {"": 0, "-in_place": 8 + read_out_needs[objective] + of_input + 1 + draws}
            for form, fixed, known in (("", functional, types), ("-in_place", in_place, read)):
                name = f"sm{capability}-{image}-{output}-{objective.name}{'-drawn' * draws}{form}"
                compile_one(directory / name, reverse_step_kernel, capability, image, output, fixed, known, config)
                rows.append({"name": name, "inputs": inputs, "scalar_loads": scalars[form], "scalar_stores": 0})
        for image, draws in itertools.product(DTYPES, (False, True)):
            constants = {"draws": draws, "samples": 1, **({"noise_pointer": None} if draws else {})}
            types = {"t_pointer": "*i64", "alpha_bar_pointer": "*fp32", "beta_bar_pointer": "*fp32"}
            row = {"inputs": 2 if draws else 3, "scalar_loads": 3, "scalar_stores": 0}  # t and the tables
            name = f"sm{capability}-{image}-forward_diffuse{'-drawn' * draws}"
            config = launch_config(DTYPES[image].itemsize)
            compile_one(directory / name, forward_diffuse_kernel, capability, image, image, constants, types, config)
            rows.append({"name": name, **row})
        rows += compile_joint_loss(directory, capability)
        for (image, output), factor, draws in itertools.product(PAIRS, (1, 4), (False, True)):
            rows.append(compile_range_null_step(directory, capability, image, output, factor, draws))
        for image in DTYPES:
            rows += compile_spectral_step(directory, capability, image)
            rows += compile_tacos_step(directory, capability, image)
            rows += compile_channels_last_draws(directory, capability, image)
        for image, (layout, together) in itertools.product(
            DTYPES, (("contiguous", "by_pixel"), ("pixels", "by_channel"))
        ):
            sizes = {**group_norm_silu.launch_config(8, 8, 64 * 64), "groups": 8, "channels": 8, together: 1}
            rows += [
                compile_norm(directory, f"sm{capability}-{image}-{layout}-{kernel}", kernel, capability, image, sizes)
                for kernel in ("statistics", "group_norm_silu")
            ]
        joining = {"groups": 8, "all_groups": 8, "together": statistics.JOINED}
        name, kernel, types = f"sm{capability}-join_pieces", statistics.join_pieces_kernel, {"joined": "i32"}
        compile_one(
            directory / name, kernel, capability, "fp32", "fp32", joining, types, {"num_warps": 1}, aligned=True
        )
        rows.append({"name": name, "kernel": "join_pieces"})
        rows.append(compile_network_op(directory, f"sm{capability}-combine", "combine", capability, "fp32", {}))
        for image, kernel in itertools.product(DTYPES, ("channel_norm", "context", "linear_attention")):
            for layout, together in (("contiguous", {"by_pixel": 1}), ("pixels", {"by_channel": 1})):
                name = f"sm{capability}-{image}-{layout}-{kernel}"
                rows.append(compile_network_op(directory, name, kernel, capability, image, together))
        rows += compile_attention_layer(directory, capability)
        rows += compile_stem_conv(directory, capability)
        rows += compile_products(directory, capability)
        # A small image, and the passes of one of 1024 x 1024.
        for image, (bits, low) in itertools.product((*DTYPES, "fp64"), ((6, 1), (12, 1), (8, 4096))):
            name = f"sm{capability}-{image}-walsh_hadamard-{bits}-{low}"
            config = walsh_hadamard.config_of(bits) | {"low": low, "factor": 0.5}
            warps, types = {"num_warps": config.pop("num_warps")}, {"rows": "i32"}
            kernel = walsh_hadamard.walsh_hadamard_kernel
            compile_one(directory / name, kernel, capability, image, image, config, types, warps, aligned=True)
            rows.append({"name": name, "kernel": "walsh_hadamard"})
    return rows


def compile_joint_loss(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile joint_loss for every pair of dtypes and both noises, its means and its backward pass."""
    rows: list[dict[str, object]] = []
    numbers = ("sums_pointer", "loss_pointer", "parts_pointer", "by_loss_pointer")
    types = dict.fromkeys(numbers, "*fp32") | dict.fromkeys(("weight0", "weight1", "scale", "factor"), "fp32")
    for (image, output), draws in itertools.product(PAIRS, (False, True)):
        constants: dict[str, object] = {
            **flags_of(Objective.pred_res_noise),
            **{"draws": draws, "squared": False, "lam_pointer": None},
            **({"noise_pointer": None} if draws else {}),
        }
        row = {"inputs": 4 if draws else 5, "scalar_loads": 0, "scalar_stores": 2}  # a program's sums
        name = f"sm{capability}-{image}-{output}-joint_loss{'-drawn' * draws}"
        config = launch_config(DTYPES[output].itemsize)
        compile_one(directory / name, joint_loss_kernel, capability, image, output, constants, types, config)
        rows.append({"name": name, **row})
    for output in DTYPES:
        name, config = f"sm{capability}-{output}-joint_loss-backward", launch_config(DTYPES[output].itemsize)
        compile_one(directory / name, joint_loss_backward_kernel, capability, output, output, {}, types, config)
        rows.append({"name": name, "inputs": 2, "scalar_loads": 1, "scalar_stores": 0})  # the incoming gradient
    name, constants = f"sm{capability}-joint_loss-means", {"lam_pointer": None, "block": 1024}
    types |= {"programs": "i32"}
    compile_one(directory / name, means_kernel, capability, "fp32", "fp32", constants, types, {"num_warps": 4})
    rows.append({"name": name, "kernel": "means"})
    return rows


def compile_range_null_step(
    directory: Path, capability: int, image: str, output: str, factor: int, draws: bool
) -> dict[str, object]:
    """Compile range_null_step for masked pixels, or for masked grey blocks of 4 × 4 pixels of 256 × 256."""
    constants: dict[str, Any] = {"draws": draws, "seed_pointer": None, **({"noise_pointer": None} if draws else {})}
    types = {"numbers": ("fp32",) * 10, "weights": ("fp32",) * 3, "mask_pointer": "*u8"}
    config = launch_config(DTYPES[output].itemsize)
    if factor == 1:
        kernel, constants["block"] = range_null_step.pixels_kernel, config["block"]
    else:
        kernel = range_null_step.blocks_kernel
        constants |= {"factor": factor, "fours": True, **range_null_step.tiles(256, 3, factor)}
    name = f"sm{capability}-{image}-{output}-range_null_step-{factor}{'-drawn' * draws}"
    compile_one(directory / name, kernel, capability, image, output, constants, types, {"num_warps": 4}, aligned=True)
    return {"name": name, "kernel": "range_null_step"}


def compile_spectral_step(directory: Path, capability: int, image: str) -> list[dict[str, object]]:
    """Compile spectral_step_ with all that it reads and writes, and with drawn noise and one number for s."""
    types = {"s_pointer": "*fp32", "numbers": ("fp32",) * SPECTRAL_NUMBERS.value}
    config, rows = launch_config(DTYPES[image].itemsize), []
    forms = {
        "stored": {"draws": False, "y_rows": True, "s_columns": True},
        "drawn": {"draws": True, "y_rows": False, "s_columns": False, "noise_pointer": None, "clean_pointer": None},
    }
    for form, fixed in forms.items():
        name = f"sm{capability}-{image}-spectral_step-{form}"
        constants = {**fixed, "strict": False, "s_rows": False, "one_sample": True}
        divisible = ("numel", "size", "s_pointer")
        where = directory / name
        compile_one(
            where, spectral_step_kernel, capability, image, image, constants, types, config, divisible=divisible
        )
        drawn = form == "drawn"
        rows.append({"name": name, "inputs": 3 if drawn else 5, "scalar_loads": int(drawn), "scalar_stores": 0})
    return rows


def compile_tacos_step(directory: Path, capability: int, image: str) -> list[dict[str, object]]:
    """Compile tacos_step for colour pictures: a fade, another image as the far end, grey and bright snow."""
    no_layers = {"layer_s_pointer": None, "layer_to_pointer": None}
    plain = {"end_pointer": None, "end_whole": False, "snow": False, "needs_grey": False}
    forms = {
        "fade": (plain, 8),
        "end": ({**no_layers, "end_whole": True, "snow": False, "needs_grey": False}, 9),
        "grey": ({**plain, **no_layers, "needs_grey": True}, 6),
        "snow": ({**plain, "snow": True, "needs_grey": True}, 8),
    }
    types = {"layer_s_pointer": "*fp32", "layer_to_pointer": "*fp32", "numbers": ("fp32",) * 2}
    divisible = ("size", "end_sample", "end_channel", "s_sample", "to_sample", *no_layers)
    config, rows = launch_config(DTYPES[image].itemsize), []
    for form, (fixed, inputs) in forms.items():
        name = f"sm{capability}-{image}-tacos_step-{form}"
        constants = {**fixed, "channels": 3}
        where = directory / name
        compile_one(where, tacos_step_kernel, capability, image, image, constants, types, config, divisible=divisible)
        rows.append({"name": name, "inputs": inputs, "scalar_loads": 0, "scalar_stores": 0})
    return rows


def compile_channels_last_draws(directory: Path, capability: int, image: str) -> list[dict[str, object]]:
    """Compile forward_diffuse and reverse_step as they draw the noise of 16 channels-last images of 3 x 256 x 256."""
    size = DTYPES[image].itemsize
    config = drawing_config(size, 16 * 3 * 256**2, True, (3, 256**2))
    fixed: dict[str, object] = {**config, "draws": True, "noise_pointer": None}
    del fixed["num_warps"]
    absent = ("table_pointer", "index_pointer", "seed_pointer", "next_input", "clean", "I_in_pointer")
    objective = flags_of(Objective.pred_res_noise)
    packed = {"next_input_packed": False, "clean_packed": False}
    forms = {
        "forward_diffuse": (
            forward_diffuse_kernel,
            {**fixed, "samples": 2},
            {"t_pointer": "*i64", "alpha_bar_pointer": "*fp32", "beta_bar_pointer": "*fp32"},
            {"inputs": 2, "scalar_loads": 6},  # t and the tables, of two samples
        ),
        "reverse_step": (
            reverse_step_kernel,
            {**fixed, **objective, **packed, **dict.fromkeys(absent)},
            {"numbers": ("fp32",) * NUMBERS.value},
            {"inputs": 3, "scalar_loads": 0},
        ),
    }
    rows: list[dict[str, object]] = []
    for op, (kernel, constants, types, row) in forms.items():
        name = f"sm{capability}-{image}-{op}-drawn-pixels"
        types = {**types, "channels": "i32", "pixels": "i32", "per_sample": "i32"}
        compile_one(directory / name, kernel, capability, image, image, constants, types, config)
        rows.append({"name": name, "scalar_stores": 0, **row})
    return rows


def compile_network_op(
    directory: Path, name: str, kernel: str, capability: int, image: str, together: dict[str, int]
) -> dict[str, object]:
    """Compile a kernel of channel_norm or linear_attention for 64 channels, or 4 heads of 32 features, of 64 x 64."""
    norm = channel_norm.launch_config(64, 64 * 64, channels_together="by_channel" in together)
    config = {"num_warps": norm.pop("num_warps") if kernel == "channel_norm" else 4}
    head = {"features": 32, "width": 32}
    product = {**head, "pixels": linear_attention.PIXELS, "precision": linear_attention.PRECISION[DTYPES[image]]}
    result = {"by_result_pixel": 1} if "by_pixel" in together else {}
    which, constants = {
        "channel_norm": (channel_norm.channel_norm_kernel, {**together, **norm}),
        "context": (linear_attention.linear_attention_context_kernel, {**together, **product, "tiles": 8}),
        "combine": (linear_attention.linear_attention_combine_kernel, {**head, "all_pieces": linear_attention.PIECES}),
        "linear_attention": (linear_attention.linear_attention_kernel, {**together, **product, **result}),
    }[kernel]
    types = {
        **dict.fromkeys(("g_pointer", "parts_pointer", "context_pointer"), "*fp32"),
        "eps": "fp32",
        "factor": "fp32",
    }
    compile_one(directory / name, which, capability, image, image, constants, types, config, aligned=True)
    return {"name": name, "kernel": kernel}


def compile_attention_layer(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile attention_layer's kernels for the stages of the published network, for an image of 256 x 256."""
    rows: list[dict[str, object]] = []
    floats = ("row_sums_pointer", "parts_pointer", "to_out_pointer", "bias_pointer", "g_pointer")
    types = {**dict.fromkeys(floats, "*fp32"), "eps": "fp32", "factor": "fp32"}
    for channels, side in ((64, 256), (128, 128), (256, 64), (512, 32)):
        config = attention_layer.launch_config(1, channels, side * side)
        constants = {"channels": channels, "heads": 4, "features": 32, "chunk": config["chunk"]}
        for kernel, which, own in (
            ("layer_context", attention_layer.attention_layer_context_kernel, ("pixels", "tiles")),
            ("layer_combine", attention_layer.attention_layer_combine_kernel, ("all_pieces",)),
            ("layer", attention_layer.attention_layer_kernel, ("pixels",)),
        ):
            known = {**config, "all_pieces": attention_layer.PIECES}
            if kernel == "layer":
                known["pixels"] = config["of_third"]
            name = f"sm{capability}-bf16-{kernel}-{channels}"
            fixed = {**constants, **{one: known[one] for one in own}}
            warps = attention_layer.CONTEXT_WARPS if kernel == "layer_context" else attention_layer.WARPS
            compile_one(
                directory / name, which, capability, "bf16", "bf16", fixed, types, {"num_warps": warps}, aligned=True
            )
            rows.append({"name": name, "kernel": kernel})
    return rows


def compile_stem_conv(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile stem_conv for the 7x7 weight of a network that sees an image of 256 x 256, or two images."""
    rows: list[dict[str, object]] = []
    for channels, width in ((3, 32), (6, 64)):
        constants = {"channels": channels, "side": 7, "width": width, **stem_conv.launch_config(256, 64)}
        name, warps = f"sm{capability}-bf16-stem_conv-{channels}", {"num_warps": stem_conv.WARPS}
        kernel, types = stem_conv.stem_conv_kernel, {"bias_pointer": "*fp32"}
        compile_one(directory / name, kernel, capability, "bf16", "bf16", constants, types, warps, aligned=True)
        rows.append({"name": name, "kernel": "stem_conv"})
    return rows


def compile_products(directory: Path, capability: int) -> list[dict[str, object]]:
    """Compile what multiplies the pixels of the published networks' images.

    These are the halving convolutions, the last one, the middle attention's projection, and the ends of the decoder's
    blocks.
    """
    rows: list[dict[str, object]] = []
    warps = {"num_warps": conv_by_taps.WARPS}
    for side, channels, outputs, pixels in ((4, 64, 64, 128 * 128), (1, 64, 3, 256 * 256), (1, 128, 512, 32 * 32)):
        constants: dict[str, Any] = {"channels": channels, "side": side, "stride": max(1, side // 2)}
        constants |= {"padding": side // 4, **conv_by_taps.launch_config(pixels, outputs, channels)}
        kernel, types = conv_by_taps.conv_by_taps_kernel, {"bias_pointer": "*fp32"}
        name, wide = f"sm{capability}-bf16-conv_by_taps-{side}-{outputs}", outputs % 16 == 0
        compile_one(directory / name, kernel, capability, "bf16", "bf16", constants, types, warps, aligned=wide)
        rows.append({"name": name, "kernel": "conv_by_taps" if wide else "conv_to_colours"})
    floats = ("norm_weight_pointer", "norm_bias_pointer", "scale_shift_pointer", "parts_pointer", "bias_pointer")
    for outputs, skip, side in ((64, 64, 256), (128, 64, 128), (256, 128, 64), (512, 256, 32)):
        constants = {"groups": 8, "width": outputs // 8, "channels": outputs, "channels_2": skip, "all_pieces": 64}
        constants |= norm_product.launch_config(side * side, 8, outputs // 8, outputs, skip)
        types, kernel = {**dict.fromkeys(floats, "*fp32"), "eps": "fp32"}, norm_product.norm_product_kernel
        name = f"sm{capability}-bf16-norm_product-{outputs}"
        compile_one(directory / name, kernel, capability, "bf16", "bf16", constants, types, warps, aligned=True)
        rows.append({"name": name, "kernel": "norm_product"})
    return rows


def compile_norm(
    directory: Path, name: str, kernel: str, capability: int, image: str, constants: dict[str, Any]
) -> dict[str, object]:
    """Compile a kernel of group_norm_silu for 8 groups of 8 channels of an image of 64 x 64 pixels."""
    floats = {"x_bias_pointer", "parts_pointer", "weight_pointer", "bias_pointer", "scale_shift_pointer"}
    types = {**dict.fromkeys(floats, "*fp32"), "eps": "fp32"}
    constants = (
        {**constants, "all_pieces": 16, "tiles": 2} if kernel == "group_norm_silu" else {**constants, "tiles": 4}
    )
    which = {
        "statistics": group_norm_silu.group_norm_silu_statistics_kernel,
        "group_norm_silu": group_norm_silu.group_norm_silu_kernel,
    }[kernel]
    compile_one(
        directory / name,
        which,
        capability,
        image,
        image,
        constants,
        types,
        {"num_warps": group_norm_silu.WARPS},
        aligned=True,
    )
    return {"name": name, "kernel": kernel}


if __name__ == "__main__":
    print(json.dumps(compile_all(Path(sys.argv[1]))))
