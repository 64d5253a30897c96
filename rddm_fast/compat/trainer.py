"""The published `Trainer`, with its arguments, methods and files, over `rddm_fast.training.trainer.Trainer`.

It differs from the published one where that has a defect:

* A training image is mirrored with probability 1/2 instead of always.
* Random numbers depend on the step, so that a resumed run repeats the uninterrupted one.
* Several processes work.
* The model is also saved after the last step.
* Files are written whole or not at all.
* A padded test image is cropped back to its own size.
* `generation=True` trains on the folder that was named.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..images.datasets import PairedImages
from ..images.pairs import LIST_SUFFIXES, DataError, Pair, find_pairs
from ..images.picture import Picture, write_image
from ..images.prepared import Prepared
from ..images.sheet import write_sheet
from ..system.files import write_whole
from ..system.processes import world_size
from ..theory.objective import Objective
from ..training.aosa import AutoObjective
from ..training.settings import TrainSettings
from ..training.trainer import Trainer as TrainingRun


class Trainer:
    """Trains a `rddm_fast.compat.ResidualDiffusion`. The arguments are the published ones.

    Args:
        folder: to restore, a list of three sources (truth, input, test input), four (truth, input, test truth, test
            input) or six (truth, input, mask, and the same to test); to generate, one source of images. A source is an
            .flist, whose lines are paired by their order, or a folder, whose files are paired by name.
        train_batch_size: images per batch; with `split_batches` summed over all processes.
        gradient_accumulate_every: batches per step.
        save_and_sample_every: steps between sheets of samples. At every tenth sheet, and at the end, the model is
            saved as `model-{step // save_and_sample_every}.pt`.
        num_samples: images on a sheet, a square number.
        amp: accepted without effect, as published; `fp16` is what reduces the precision, on a GPU.
        convert_image_to: "L" for one channel.
        equalizeHist: equalise the histogram of the inputs.
        crop_patch: train on random patches of `image_size` and test on whole images; otherwise all images are resized
            to `image_size`.
        sub_dir: put a result in a folder named after its input's folder.
        num_unet: number of networks in the later experiments. Each has an optimiser; two networks take RAdam.

    The seed is torch's (`set_seed`).

    Raises:
        ValueError: arguments that do not fit together, in one sentence.
    """

    total_n_samples = 50_000
    """Images that `test(FID=True)` generates."""
    test_sheets = 100
    """Sheets that `test()` generates."""

    def __init__(
        self,
        diffusion_model: Any,
        folder: str | Sequence[str],
        *,
        train_batch_size: int = 16,
        gradient_accumulate_every: int = 1,
        augment_flip: bool = True,
        train_lr: float = 1e-4,
        train_num_steps: int = 100_000,
        ema_update_every: int = 10,
        ema_decay: float = 0.995,
        adam_betas: tuple[float, float] = (0.9, 0.99),
        save_and_sample_every: int = 1000,
        num_samples: int = 25,
        results_folder: str = "./results/sample",
        amp: bool = False,
        fp16: bool = False,
        split_batches: bool = True,
        convert_image_to: str | None = None,
        condition: bool = False,
        sub_dir: bool = False,
        equalizeHist: bool = False,
        crop_patch: bool = False,
        generation: bool = False,
        num_unet: int = 2,
    ) -> None:
        if not isinstance(diffusion_model, ResidualDiffusion):
            raise ValueError(f"Trainer trains a ResidualDiffusion of rddm_fast.compat, not {type(diffusion_model)}")
        if math.isqrt(num_samples) ** 2 != num_samples:
            raise ValueError(f"num_samples is {num_samples}: it must be a square number, such as 1, 4 or 25")
        if condition != diffusion_model.condition:
            raise ValueError("condition must be the same for Trainer and ResidualDiffusion")
        self.train_num_steps, self.save_and_sample_every = train_num_steps, save_and_sample_every
        self.num_samples, self.image_size = num_samples, diffusion_model.image_size
        self.batch_size, self.gradient_accumulate_every = train_batch_size, gradient_accumulate_every
        self.condition, self.crop_patch, self.sub_dir = condition, crop_patch, sub_dir
        self.num_unet = num_unet
        batch_size = train_batch_size * (1 if split_batches else world_size())
        self.two_optimizers = bool(getattr(diffusion_model, "later_generation", False)) and num_unet == 2
        settings = TrainSettings(
            steps=train_num_steps,
            batch_size=batch_size,
            accumulate=gradient_accumulate_every,
            lr=train_lr,
            lr_schedule="constant",
            warmup=0,
            optimizer="radam" if self.two_optimizers else "adam",
            optimizers="each" if self.two_optimizers else "one",
            betas=(0.9, 0.999) if self.two_optimizers else adam_betas,
            ema="published",
            ema_decay=ema_decay,
            ema_every=ema_update_every,
            precision="float16" if fp16 else None,
            seed=torch.initial_seed() % 2**31,
            plot=False,
        )
        training, tested = _sources(folder, condition)
        grey = convert_image_to == "L" or diffusion_model.channels == 1
        size = None if crop_patch else self.image_size
        options: dict[str, Any] = {"grey": grey, "seed": settings.seed}
        images = PairedImages(
            training,
            patch=self.image_size if crop_patch else None,
            flip=0.5 if augment_flip else 0.0,
            length=train_num_steps * batch_size * gradient_accumulate_every,
            **options,
        )
        prepared: dict[str, Any] = {"size": size, "equalize_input": equalizeHist and condition}
        self._inputs = [pair.input for pair in tested]
        self.sample_dataset = Prepared(PairedImages(tested, flip=0.0, **options), **prepared) if tested else None
        trained_model: ResidualDiffusion | AutoObjective = diffusion_model
        if getattr(diffusion_model, "automatic", False) and diffusion_model.decided is None:
            trained_model = AutoObjective(diffusion_model, diffusion_model.get_parameter("alpha_res"))
        self._core = TrainingRun(
            trained_model,
            Prepared(images, input_is_target=not condition, **prepared),
            results_folder,
            settings,
            resume=False,
        )
        self.model, self.accelerator = diffusion_model, self._core.accelerator
        self.device = self.accelerator.device
        self.set_results_folder(results_folder)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self._core.step

    @property
    def ema_model(self) -> Any:
        """The model with the averaged weights, which sampling and testing use."""
        return self._core.ema.module

    def set_results_folder(self, path: str | Path) -> None:
        """Set the folder for samples, results and models, and create it."""
        self.results_folder = Path(path)
        if self.accelerator.is_main_process:
            self.results_folder.mkdir(parents=True, exist_ok=True)

    # -- training -----------------------------------------------------------------------------------------

    def train(self, ATDP: bool = False) -> int | None:
        """Train to `train_num_steps`.

        With `ATDP=True` (AOSA), stop as soon as the objective is decided, and return 1 for the residual or 0 for the
        noise."""
        core = self._core
        if ATDP and core.selection is None:
            raise ValueError("train(ATDP=True) chooses an objective: build the model with objective='auto_res_noise'")
        for progress in core.run(until_decided=ATDP):
            if progress.phase == "training" and progress.step % self.save_and_sample_every == 0:
                core.accelerator.print(f"step {progress.step} of {self.train_num_steps}: loss {progress.loss:.4f}")
                milestone = progress.step // self.save_and_sample_every
                self.sample(milestone)
                if progress.step % (10 * self.save_and_sample_every) == 0:
                    self.save(milestone)
        if ATDP:
            assert core.selection is not None
            return int(core.selection.decided is Objective.pred_res)
        if self.step % (10 * self.save_and_sample_every):
            self.save(self.step // self.save_and_sample_every)
        core.accelerator.wait_for_everyone()
        core.accelerator.print("training complete")
        return None

    def _optimizers(self) -> dict[str, Any]:
        """Return the optimisers by their published names."""
        later = getattr(self.model, "later_generation", False)
        return {f"opt{i}" if later else "opt": optimizer for i, optimizer in enumerate(self._core.phase.optimizers)}

    def save(self, milestone: int) -> None:
        """Write `model-{milestone}.pt` in the published layout, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        ema, online = self._core.ema, self.model.state_dict()
        averaged = {
            "initted": torch.tensor([float(ema.steps > 0)]),
            "step": ema.steps.reshape(1).cpu(),
            **{f"online_model.{key}": value for key, value in online.items()},
            **{f"ema_model.{key}": value for key, value in self.ema_model.state_dict().items()},
        }
        scaler = getattr(self.accelerator, "scaler", None)
        content = {
            "step": self.step,
            "model": online,
            **{name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
            "ema": averaged,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        write_whole(self.results_folder / f"model-{milestone}.pt", lambda path: torch.save(content, path))

    def load(self, milestone: int) -> None:
        """Resume from `model-{milestone}.pt`, written by the published code or by this one.

        As published, a missing file leaves the weights as they are; here a warning says so.
        """
        path = self.results_folder / f"model-{milestone}.pt"
        if not path.exists():
            warnings.warn(f"there is no {path}: the weights stay as they are", stacklevel=2)
            return
        content = torch.load(path, map_location=self.device, weights_only=True)
        optimizers = self._optimizers()
        wanted = {"step", "model", "ema", *optimizers}
        if missing := sorted(wanted - content.keys()):
            raise ValueError(f"{path} holds no {missing[0]!r}: it is of another experiment, check num_unet")
        self.model.load_state_dict(content["model"])
        self.ema_model.load_state_dict(_below("ema_model.", content["ema"]))
        self._core.ema.steps.fill_(int(content["ema"]["step"].reshape(-1)[0]))
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(content[name])
        if getattr(self.accelerator, "scaler", None) is not None and content.get("scaler"):
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self._core.phase.step = int(content["step"])
        self.accelerator.print(f"loaded {path}")

    # -- sampling -----------------------------------------------------------------------------------------

    def sample(self, milestone: int, last: bool = True, FID: bool = False) -> int:
        """Write `sample-{milestone}.png`, a sheet of test images with their results, or of generated ones.

        `last=False` shows the image after every step. With `FID=True` each generated image is a file, numbered from
        `milestone` on; the next free number is returned.
        """
        if not self.accelerator.is_main_process:
            return milestone
        rows: list[Tensor] = []
        given: list[Tensor] | None = None
        if self.condition:
            assert self.sample_dataset is not None
            count, first = len(self.sample_dataset), milestone * self.num_samples
            chosen = 1 if self.crop_patch else self.num_samples  # Uncropped images differ in size.
            items = [self.sample_dataset[i % count] for i in range(first, first + chosen)]
            given = [torch.stack([self._image(item, name) for item in items]) for name in self._given(items[0])]
            rows = [torch.stack([item["target"] for item in items])] if "target" in items[0] else []
            rows += [given[0].cpu()]
        results = self.ema_model.sample(given, batch_size=self.num_samples, last=last)
        if FID:
            for image in results[0][: max(0, self.total_n_samples - milestone)]:
                self._write(f"sample-{milestone}.png", image)
                milestone += 1
            return milestone
        write_sheet(self.results_folder / f"sample-{milestone}.png", rows + [r.cpu() for r in results])
        return milestone

    def test(self, sample: bool = False, last: bool = True, FID: bool = False) -> None:
        """Write the result of each test input, by its name, or sheets of generated images.

        `sample=True` writes the input and the noisy start beside the result; `last` and `FID` are those of `sample`.
        """
        if not self.accelerator.is_main_process:
            return
        if not self.condition:
            if FID:
                number = len(list(self.results_folder.glob("*.png")))
                while number < self.total_n_samples:
                    number = self.sample(number, last=last, FID=True)
            else:
                for number in range(self.test_sheets):
                    self.sample(number, last=last)
            return
        assert self.sample_dataset is not None
        for number, path in enumerate(self._inputs):
            item = self.sample_dataset[number]
            given = [self._image(item, name)[None] for name in self._given(item)]
            results = self.ema_model.sample(given, last=last)
            name = f"{path.parent.name}/{path.name}" if self.sub_dir else path.name
            if sample:
                rows = [item["target"][None]] if "target" in item else []
                write_sheet((self.results_folder / name).with_suffix(".png"), [*rows, given[0].cpu(), *results])
            else:
                self._write(name, results[-1][0])

    @staticmethod
    def _given(item: dict[str, Any]) -> list[str]:
        return [name for name in ("input", "mask") if name in item]

    def _image(self, item: dict[str, Any], name: str) -> Tensor:
        return item[name].expand_as(item["input"]).to(self.device)

    def _write(self, name: str, image: Tensor) -> None:
        pixels = image.detach().float().cpu().expand(3, -1, -1)
        write_image(self.results_folder / name, Picture(pixels=pixels, grey=len(image) == 1))


def _below(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _sources(folder: str | Sequence[str], condition: bool) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and the pairs to test on."""
    if not condition:
        if not isinstance(folder, str | Path):
            raise ValueError("to generate, folder is one folder or list of images; several are for condition=True")
        return find_pairs(folder), []
    if isinstance(folder, str | Path) or len(folder) not in (3, 4, 6):
        raise ValueError(
            "to restore, folder is a list of 3 (truth, input, test input), 4 (truth, input, test truth, test input) "
            "or 6 sources (truth, input, mask, and the same to test)"
        )
    if len(folder) == 6:
        return _paired(folder[1], folder[0], folder[2]), _paired(folder[4], folder[3], folder[5])
    return _paired(folder[1], folder[0]), _paired(folder[-1], folder[2] if len(folder) == 4 else None)


def _paired(given: str, truth: str | None, mask: str | None = None) -> list[Pair]:
    """Pair the files of lists by their order, as the published code does, and the files of folders by name."""
    sources = [source for source in (given, truth, mask) if source is not None]
    if any(Path(source).suffix.lower() not in LIST_SUFFIXES for source in sources):
        return find_pairs(given, truth, mask)
    inputs, *others = ([pair.input for pair in find_pairs(source)] for source in sources)
    for source, paths in zip(sources[1:], others, strict=True):
        if len(paths) != len(inputs):
            raise DataError(f"{given} names {len(inputs)} images and {source} {len(paths)}: lines are paired by order")
    truths = others[0] if truth is not None else [None] * len(inputs)
    masks = others[-1] if mask is not None else [None] * len(inputs)
    return [Pair(i, t, m, i.stem, given) for i, t, m in zip(inputs, truths, masks, strict=True)]
