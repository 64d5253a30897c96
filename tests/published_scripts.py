"""The seven published experiments, made small: folders of photographs in their layouts, and training scripts.

The scripts are written here, with the settings of the published ones; dim 8, one stage, images of 16 pixels and 20
steps make them quick. Their one line that names this package is the import line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.images.prepared import resized
from rddm_fast.restoration.demo import photographs

SIZE = 16
STEPS = 20


def photograph(number: int, height: int, width: int) -> Tensor:
    """A piece of a real photograph, (3, height, width): another one for each number."""
    every = photographs()
    image = read_image(every[number % len(every)]).pixels
    top = 13 * (number // len(every)) % 40
    piece = image[:, top : top + height, 20 : 20 + width]
    return piece if piece.shape[1:] == (height, width) else resized(image, (height, width))


def write(path: Path, image: Tensor) -> Path:
    write_image(path, Picture(pixels=image))
    return path


def write_list(path: Path, names: list[Path]) -> str:
    """Write an .flist, and return its name below the folder that the script runs in."""
    path.write_text("".join(f"{name}\n" for name in names))
    return path.name


def raindrops(root: Path) -> list[str]:
    """Four lists, truth and input to train and to test, as those of the raindrops."""
    return _lists(root, ("gt", "input"), lambda truth, kind: truth if kind == "gt" else truth * 0.7 + 0.2)


def shadows(root: Path) -> list[str]:
    """Six lists: without shadow, with shadow, and where it is."""

    def made(truth: Tensor, kind: str) -> Tensor:
        mask = torch.zeros_like(truth)
        mask[:, :, : truth.shape[2] // 2] = 1
        return {"free": truth, "shadow": truth * (1 - 0.6 * mask), "mask": mask}[kind]

    return _lists(root, ("free", "shadow", "mask"), made)


def low_light(root: Path) -> list[str]:
    """Four lists: well lit and dark."""
    return _lists(root, ("high", "low"), lambda truth, kind: truth if kind == "high" else truth * 0.15)


def blurred(root: Path) -> list[str]:
    """Four lists: sharp and blurred."""

    def made(truth: Tensor, kind: str) -> Tensor:
        return truth if kind == "sharp" else torch.nn.functional.avg_pool2d(truth[None], 5, 1, 2)[0]

    return _lists(root, ("sharp", "blur"), made)


def _lists(root: Path, kinds: tuple[str, ...], made: Callable[[Tensor, str], Tensor]) -> list[str]:
    lists = []
    for part, count, first in (("train", 4, 0), ("test", 2, 4)):
        for kind in kinds:
            paths = [
                write(root / part / kind / f"{i}_{kind}.png", made(photograph(first + i, 24 + 4 * i, 30), kind))
                for i in range(count)
            ]
            lists.append(write_list(root / f"{kind}_{part}.flist", paths))
    return lists


def celeba(root: Path) -> str:
    """A folder of aligned faces, .jpg of 178x218."""
    for i in range(4):
        write(root / "img_align_celeba" / f"{i + 1:06d}.jpg", photograph(i, 218, 178))
    return "img_align_celeba"


def animals(root: Path, dogs: int = 7, cats: int = 9) -> list[str]:
    """Three lists, cats, dogs and test dogs, of different lengths; the pictures differ in size."""
    lists = []
    for kind, count, first in (("cat", cats, 0), ("dog", dogs, 20), ("dog_test", 2, 40)):
        paths = [
            write(root / kind / f"{kind}_{i:03d}.jpg", photograph(first + i, 30 + first + 2 * i, 44 - i))
            for i in range(count)
        ]
        lists.append(write_list(root / f"{kind}.flist", paths))
    return lists


def whole_images(root: Path) -> list[str]:
    """Two folders of whole images, to train and to test."""
    for part, count in (("train", 4), ("val", 3)):
        for i in range(count):
            write(root / "celeba_hq" / part / f"{i:05d}.png", photograph(i + 10 * count, 32, 32))
    return ["celeba_hq/train", "celeba_hq/val"]


def whole_images_of_the_source(root: Path) -> list[str]:
    """The same, named in the source beside the script: `folder` is empty."""
    train, val = whole_images(root)
    (root / "src").mkdir()
    (root / "src" / "residual_denoising_diffusion_pytorch.py").write_text(
        "class Trainer:\n"
        "    def __init__(self, diffusion_model, folder):\n"
        f"        self.sample_dataset = dataset({val!r}, diffusion_model.image_size)\n"
        f"        self.train_dataset = dataset({train!r}, diffusion_model.image_size)\n"
    )
    return []


SCRIPT = """
import sys

{import_line}

set_seed(10)
every, sampling_timesteps = 2, int(sys.argv[1])
networks = UnetRes(dim=8, dim_mults=(1,), {networks})
diffusion = ResidualDiffusion(
    networks, image_size={size}, timesteps=1000, sampling_timesteps=sampling_timesteps, sum_scale=1, {diffusion}
)
trainer = Trainer(
    diffusion, {folder!r}, train_batch_size=2, train_num_steps={steps}, gradient_accumulate_every=2, ema_decay=0.995,
    amp=False, convert_image_to="RGB", save_and_sample_every=every, {trainer}
)
trainer.test_sheets = 2  # Only here: 100 sheets would take long.
trainer.train()
if trainer.accelerator.is_local_main_process:
    trainer.load(trainer.train_num_steps // every)
    trainer.set_results_folder("./results/test_timestep_" + str(sampling_timesteps))
    trainer.test(last=True)
"""

AOSA_SCRIPT = """
import sys

{import_line}


def get_trainer(predict_res_or_noise):
    networks = UnetRes(dim=8, dim_mults=(1,), {networks})
    diffusion = ResidualDiffusion(
        networks, image_size={size}, timesteps=1000, sampling_timesteps=int(sys.argv[1]), sum_scale=1, {diffusion},
        alpha_res_to_0_or_1=predict_res_or_noise
    )
    return Trainer(
        diffusion, {folder!r}, train_batch_size=2, train_num_steps={steps}, gradient_accumulate_every=2,
        ema_decay=0.995, amp=False, convert_image_to="RGB", save_and_sample_every=2, {trainer}
    )


set_seed(10)
selecting = get_trainer(None)
decided = selecting.train(ATDP=True)
print("the residual" if decided else "the noise")
trainer = get_trainer(1)  # As published: a constant replaces the decision.
trainer.train(ATDP=False)
trainer.load(trainer.train_num_steps // 2)
trainer.set_results_folder("./results/" + str(trainer.train_num_steps // 2))
trainer.test(last=True)
"""

TAKES = {
    "networks": (
        "share_encoder num_unet condition input_condition network_objective test_res_or_noise img_to_img_translation"
    ),
    "diffusion": (
        "objective loss_type condition input_condition input_condition_mask test_res_or_noise img_to_img_translation"
    ),
    "trainer": "train_lr num_samples condition equalizeHist crop_patch generation num_unet",
}
"""Which class takes which of a run's settings."""


@dataclass(frozen=True)
class Run:
    """One run of a published experiment.

    Attributes:
        title: what the table calls it.
        number: the folder's number.
        data: writes its images and lists, and returns what its script passes as `folder`.
        settings: those in which the published train.py files differ.
        text: its script, with gaps.
    """

    title: str
    number: int
    data: Callable[[Path], str | list[str]]
    settings: dict[str, Any]
    text: str = SCRIPT

    @property
    def import_line(self) -> str:
        return f"from rddm_fast.compat.experiment{self.number} import ResidualDiffusion, Trainer, UnetRes, set_seed"

    def script(self, folder: str | list[str]) -> str:
        """The training script, which takes the number of sampling steps as its argument."""
        arguments = {part: self._arguments(names.split()) for part, names in TAKES.items()}
        return self.text.format(import_line=self.import_line, folder=folder, size=SIZE, steps=STEPS, **arguments)

    def _arguments(self, names: list[str]) -> str:
        given = {name.removeprefix("network_"): self.settings[name] for name in names if name in self.settings}
        return ", ".join(f"{name}={value!r}" for name, value in given.items())


_ALL: dict[str, Any] = {
    "objective": "pred_res_noise",
    "input_condition": False,
    "input_condition_mask": False,
    "equalizeHist": False,
    "crop_patch": False,
}
_RESTORING = {
    **_ALL,
    "share_encoder": 0,
    "condition": True,
    "loss_type": "l1",
    "train_lr": 8e-5,
    "num_samples": 1,
    "generation": False,
}
_LATER = {
    **_ALL,
    "num_unet": 2,
    "network_objective": "pred_res_noise",
    "test_res_or_noise": "res_noise",
    "condition": False,
    "loss_type": "l2",
    "train_lr": 2e-4,
    "num_samples": 4,
    "generation": True,
}
_WITHOUT_INPUT = {**_LATER, "condition": True, "img_to_img_translation": True}
_AOSA = {
    **_LATER,
    "num_unet": 1,
    "condition": True,
    "objective": "auto_res_noise",
    "network_objective": "auto_res_noise",
    "loss_type": "l1",
    "train_lr": 8e-5,
    "num_samples": 1,
    "equalizeHist": True,
}
_MASKED = {"input_condition": True, "input_condition_mask": True}

RUNS = [
    Run("generation, path-independent", 0, celeba, _LATER),
    Run("raindrops", 2, raindrops, _RESTORING),
    Run("shadows, with masks", 2, shadows, {**_RESTORING, **_MASKED}),
    Run("low light", 2, low_light, {**_RESTORING, "equalizeHist": True}),
    Run("blur", 2, blurred, {**_RESTORING, "crop_patch": True}),
    Run("AOSA, undecided", 3, low_light, _AOSA, AOSA_SCRIPT),
    Run("AOSA, decided", 3, low_light, {**_AOSA, "train_lr": 1e-2}, AOSA_SCRIPT),
    Run("inpainting, folders in the source", 4, whole_images_of_the_source, _WITHOUT_INPUT),
    Run("inpainting, two folders", 4, whole_images, _WITHOUT_INPUT),
    Run("translation, 7 dogs and 9 cats", 5, animals, _WITHOUT_INPUT),
    Run("generation, schedules", 6, celeba, _LATER),
]
