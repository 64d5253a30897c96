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

from compile_networks import compile_networks
from compile_one import DTYPES, compile_one
from oracle import PAIRS as TORCH_PAIRS

from rddm_fast.kernels.forward_diffuse import forward_diffuse_kernel
from rddm_fast.kernels.images import drawing_config, launch_config
from rddm_fast.kernels.inverse import range_null_step, walsh_hadamard
from rddm_fast.kernels.inverse.spectral_step import NUMBERS as SPECTRAL_NUMBERS
from rddm_fast.kernels.inverse.spectral_step import spectral_step_kernel
from rddm_fast.kernels.inverse.tacos_step import tacos_step_kernel
from rddm_fast.kernels.joint_loss import joint_loss_backward_kernel, joint_loss_kernel, means_kernel
from rddm_fast.kernels.objective import flags_of
from rddm_fast.kernels.reverse_step import NUMBERS, reverse_step_kernel
from rddm_fast.theory.objective import Objective

NAMES = {dtype: name for name, dtype in DTYPES.items()}
PAIRS = [(NAMES[image], NAMES[output]) for image, output in TORCH_PAIRS]


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
        rows += compile_networks(directory, capability)
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


if __name__ == "__main__":
    print(json.dumps(compile_all(Path(sys.argv[1]))))
