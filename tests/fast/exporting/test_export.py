"""A sampler as one .pt2 file: the same images from torch alone, in Python and in C++, and what is said of mistakes.

One small model with a mask, noise in every step and a size that is no multiple of the network's is exported once, by
the command line; compiling it takes most of this file's time.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run, succeeded
from kinds import every_kind_of_model
from small_models import images, seeded, small_model
from torch import Tensor

import rddm_fast
from rddm_fast import FastSampler, ResidualDiffusion
from rddm_fast.fast.export import ExportedLoop, ExportError, export, load
from rddm_fast.models.folder import save_model

EXAMPLES = Path(__file__).parents[3] / "examples"
SHAPE = (1, 3, 18, 15)


@dataclass(frozen=True)
class Case:
    """The exported model, its file, what the command printed, and inputs with the images that Python makes of them."""

    diffusion: ResidualDiffusion
    file: Path
    printed: str
    inputs: tuple[Tensor, Tensor, Tensor]
    wanted: Tensor


def sampled(diffusion: ResidualDiffusion, image: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    return diffusion.sample(image, mask, sampling_timesteps=2, draws=list(noise))[-1].clamp(0, 1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("export")
    diffusion = small_model("pred_res", dim=8, input_condition=True, eta=1.0)
    save_model(folder / "model", diffusion)
    options = ("--size", "18x15", "--steps", 2, "--device", "cpu", "-o", folder / "sampler.pt2")
    result = succeeded(run("export", "--model", folder / "model", *options))
    torch.manual_seed(0)
    # Whole 255ths, as a PPM has them.
    image, mask = ((images(*SHAPE, seed=seed) * 255).round() / 255 for seed in (1, 2))
    inputs = image, torch.randn(2, *SHAPE), mask
    return Case(diffusion, folder / "sampler.pt2", result.stdout, inputs, sampled(diffusion, *inputs))


def test_the_command_prints_file_seconds_and_size(case: Case) -> None:
    found = re.fullmatch(rf"{re.escape(str(case.file))}: \d+\.\d s, (\d+\.\d) MB\n", case.printed)
    assert found and float(found[1]) == round(case.file.stat().st_size / 1e6, 1)
    assert [path.name for path in case.file.parent.iterdir() if path.is_file()] == ["sampler.pt2"]


def test_a_process_with_torch_alone_makes_the_same_images(case: Case, tmp_path: Path) -> None:
    torch.save(case.inputs, tmp_path / "inputs.pt")
    script = f"""
import sys, torch
sys.modules["rddm_fast"] = None
sampler = torch._inductor.aoti_load_package({str(case.file)!r})
result = sampler(*torch.load("inputs.pt", weights_only=True))
torch.save((result, sampler.get_metadata()), "result.pt")
assert not [name for name in sys.modules if name.startswith("rddm_fast.")]
"""
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    result, metadata = torch.load(tmp_path / "result.pt", weights_only=True)
    assert (case.wanted.std() > 0.05) and (result - case.wanted).abs().max() <= 1e-5
    expected = {"format": "rddm_fast sampler", "inputs": "image,noise,mask", "batch": "1", "channels": "3"}
    expected |= {"height": "18", "width": "15", "draws": "2", "steps": "2", "eta": "1", "device": "cpu"}
    expected |= {"dtype": "float32", "objective": "pred_res", "torch": torch.__version__}
    assert metadata.items() >= (expected | {"rddm_fast": rddm_fast.__version__}).items()


def test_load_draws_the_noise_and_checks_the_images(case: Case) -> None:
    sampler = load(case.file)
    image, noise, mask = case.inputs
    assert sampler.shape == SHAPE and sampler.draws == 2
    assert (sampler(image, mask, draws=noise) - case.wanted).abs().max() <= 1e-5
    generators = [seeded(7) for _ in range(2)]
    wanted = case.diffusion.sample(image, mask, sampling_timesteps=2, generator=generators[0])[-1].clamp(0, 1)
    assert (sampler(image, mask, generator=generators[1]) - wanted).abs().max() <= 1e-5
    mistakes: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((image,), {}, "takes image and mask, and was given image"),
        ((image[..., :14], mask), {}, r"exported for \(1, 3, 18, 15\), and image is \(1, 3, 18, 14\)"),
        ((image, mask), {"draws": noise[:1]}, r"takes 2 draws of shape \(1, 3, 18, 15\)"),
    ]
    for arguments, options, sentence in mistakes:
        with pytest.raises(ValueError, match=sentence):
            sampler(*arguments, **options)


# -- C++ ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, built as its CMakeLists.txt says."""
    build = tmp_path_factory.mktemp("build")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=path)
    assert cmake, "cmake, which builds the C++ example, is neither on PATH nor beside this Python"
    settings = {"TORCH": Path(torch.__file__).parent, "CMAKE_BUILD_TYPE": "None", "CMAKE_CXX_FLAGS": "-O1"}
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    for command in ([cmake, "-G", "Ninja", "-S", EXAMPLES, "-B", build, *defined], [cmake, "--build", build]):
        done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "restore"


def write_ppm(path: Path, image: Tensor) -> Path:
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).contiguous()
    path.write_bytes(f"P6\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode() + pixels.numpy().tobytes())
    return path


def read_ppm(path: Path) -> Tensor:
    magic, size, most, pixels = path.read_bytes().split(b"\n", 3)
    assert (magic, most) == (b"P6", b"255")
    width, height = map(int, size.split())
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)[None] / 255


def example(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def test_libtorch_restores_a_photograph_without_python(case: Case, restore: Path, tmp_path: Path) -> None:
    image, _, mask = case.inputs
    files = [write_ppm(tmp_path / "image.ppm", image), tmp_path / "out.ppm", write_ppm(tmp_path / "mask.ppm", mask)]
    done = example(restore, case.file, *files)
    assert (done.returncode, done.stderr) == (0, "")
    torch.manual_seed(0)  # the seed of the example
    wanted = sampled(case.diffusion, image, torch.randn(2, *SHAPE), mask)
    assert (read_ppm(files[1]) - wanted).abs().max() <= 0.5 / 255 + 1e-5


def test_the_example_says_what_is_wrong(case: Case, restore: Path, tmp_path: Path) -> None:
    image = case.inputs[0]
    good, small = write_ppm(tmp_path / "good.ppm", image), write_ppm(tmp_path / "small.ppm", image[..., :14])
    (tmp_path / "text.ppm").write_text("no image")
    (tmp_path / "cut.ppm").write_bytes(good.read_bytes()[:-1])
    out = tmp_path / "out.ppm"
    assert example(restore).returncode == 2
    for arguments, sentence in [
        ([good, out], "the sampler takes 'image,noise,mask'"),
        ([small, out, good], "the sampler takes one image of 18x15"),
        ([tmp_path / "text.ppm", out, good], "text.ppm is no binary 8-bit PPM without comments"),
        ([tmp_path / "cut.ppm", out, good], "cut.ppm is cut short"),
        ([good, tmp_path / "nowhere" / "out.ppm", good], "out.ppm cannot be written"),
    ]:
        done = example(restore, case.file, *arguments)
        assert done.returncode == 1 and re.fullmatch(rf"error: \S*{re.escape(sentence)}\n", done.stderr), done.stderr
    assert not out.exists()


# -- every kind of model ------------------------------------------------------------------------------------


def plain_loop(unfinished: Callable[..., Tensor], step: Callable[..., Any], state: Any) -> Any:
    """The definition of torch.while_loop, without its tracing."""
    while unfinished(*state):
        state = step(*state)
    return state


@every_kind_of_model
def test_the_loop_is_the_sampler(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "while_loop", plain_loop)
    diffusion = small_model(dim=8, **options)
    loop = ExportedLoop(diffusion, diffusion.steps(3)).eval()
    shape = (2, 3, 16, 16)
    given = {"image": images(*shape), "noise": torch.randn(loop.draws, *shape), "mask": images(*shape, seed=2)}
    found = loop(*(given[name] for name in loop.inputs))
    restored = [given[name] if name in loop.inputs else None for name in ("image", "mask")]
    wanted = diffusion.sample(*restored, batch_size=2, draws=list(given["noise"]))[-1].clamp(0, 1)
    assert wanted.std() > 0.01 and (found - wanted).abs().max() <= 1e-4


def test_steps_that_draw_no_noise_are_traced() -> None:
    """The file's model above draws in every step; the built-in ones in none."""
    diffusion = small_model("pred_res", dim=8)
    loop = ExportedLoop(diffusion, diffusion.steps(2)).eval()
    given = images(1, 3, 16, 16), torch.randn(1, 1, 3, 16, 16)
    program = torch.export.export(loop, given, strict=True)
    assert loop.draws == 1 and any("while_loop" in str(node.target) for node in program.graph.nodes)


def test_in_bfloat16_the_loop_is_the_fast_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "while_loop", plain_loop)
    diffusion = small_model("pred_res", dim=8)
    image, noise = images(1, 3, 16, 16), torch.randn(1, 1, 3, 16, 16)
    found = ExportedLoop(diffusion, diffusion.steps(3), torch.bfloat16)(image, noise)
    wanted = FastSampler(diffusion, dtype=torch.bfloat16)(image, draws=noise)
    assert found.dtype == torch.float32 and (found - wanted).abs().max() <= 0.02
    assert (found - diffusion.sample(image, draws=noise)[-1].clamp(0, 1)).abs().max() > 0


# -- mistakes -----------------------------------------------------------------------------------------------


def test_export_names_a_mistake(tmp_path: Path) -> None:
    diffusion, size = small_model(dim=8), (16, 16)
    mistakes: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "sampler.pt", {"size": size}, "does not end in .pt2"),
        (tmp_path / "nowhere" / "sampler.pt2", {"size": size}, "there is no folder .*nowhere"),
        (tmp_path / "sampler.pt2", {"size": (0, 16)}, r"size is \(0, 16\) and batch 1"),
        (tmp_path / "sampler.pt2", {"size": size, "batch": 0}, "batch 0"),
        (tmp_path / "sampler.pt2", {"size": size, "dtype": torch.float64}, "dtype is torch.float64: choose"),
        (tmp_path / "sampler.pt2", {"size": size, "steps": 1001}, "between 1 and the schedule's 1000"),
    ]
    for path, options, sentence in mistakes:
        with pytest.raises(ValueError, match=sentence):
            export(diffusion, path, **options)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_one_sentence_says_so(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model(dim=8))
    options = ("--model", tmp_path / "model", "--size", "16x16", "-o", tmp_path / "sampler.pt2", "--device", "cpu")
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        result = run("export", *options)
    assert result.exit_code == 1 and not (tmp_path / "sampler.pt2").exists()
    assert result.stderr == (
        "error: exporting compiles C++, and no C++ compiler was found: install g++, or set CXX to the one to use\n"
    )


def test_a_compilation_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_program: object, *, package_path: str, **_options: object) -> None:
        Path(package_path).write_bytes(b"half a file")
        raise RuntimeError("the compiler failed")

    monkeypatch.setattr(torch.export, "export", lambda *_arguments, **_options: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    path = tmp_path / "sampler.pt2"
    path.write_bytes(b"the old file")
    with pytest.raises(RuntimeError, match="the compiler failed"):
        export(small_model(dim=8), path, size=(16, 16))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"the old file"


def test_load_names_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no file"):
        load(tmp_path / "sampler.pt2")
    (tmp_path / "sampler.pt2").write_bytes(b"no archive")
    with pytest.raises(ExportError, match="cannot be loaded by torch"):
        load(tmp_path / "sampler.pt2")
