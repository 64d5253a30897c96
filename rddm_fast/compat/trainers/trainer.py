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
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...diffusion.residual import ResidualDiffusion
from ...images.picture import Picture, write_image
from ...images.sheet import write_sheet
from ...system.processes import world_size
from ...theory.experiments import AOSA, Experiment
from ..networks import experiment_of
from .run import PublishedRun, published_settings
from .sources import Sources


class Trainer(PublishedRun):
    """Trains a `rddm_fast.compat.ResidualDiffusion`. The arguments are the published ones.

    Args:
        folder: to restore, a list of three sources (truth, input, test input), four (truth, input, test truth, test
            input) or six (truth, input, mask, and the same to test); to generate, one source of images. A source is an
            .flist, whose lines are paired by their order, or a folder, whose files are paired by name. `Sources` says
            what inpainting and translation take.
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
        sub_dir: put the name of its input's folder before a result's name, as FOLDER_NAME.png.
        generation: with a model that generates faces (folders 0 and 6): crop the aligned CelebA images of 178x218 to
            their faces before they are resized.
        num_unet: number of networks in the later experiments. Each has an optimiser, RAdam; AOSA's one takes Adam.
        strict: with AOSA, raise Undecided if the steps decide nothing, instead of a warning.
        experiment: the published experiment; by default the model's.

    The seed is torch's (`set_seed`).

    Raises:
        ValueError: arguments that do not fit together, in one sentence.
    """

    total_n_samples = 50_000
    """Images that `test(FID=True)` generates."""
    published: ClassVar[Experiment | None] = None
    """The experiment of the module that was imported (`rddm_fast.compat.experiment5`, …)."""
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
        strict: bool = False,
        experiment: str | int | None = None,
    ) -> None:
        if not isinstance(diffusion_model, ResidualDiffusion):
            raise ValueError(f"Trainer trains a ResidualDiffusion of rddm_fast.compat, not {type(diffusion_model)}")
        if math.isqrt(num_samples) ** 2 != num_samples:
            raise ValueError(f"num_samples is {num_samples}: it must be a square number, such as 1, 4 or 25")
        if condition != diffusion_model.condition:
            raise ValueError("condition must be the same for Trainer and ResidualDiffusion")
        known = experiment_of(experiment, self.published, getattr(diffusion_model, "experiment", None))
        later = bool(getattr(diffusion_model, "later_generation", False))
        if later and known is not None and getattr(diffusion_model, "experiment", None) is None:
            raise ValueError(
                f"the Trainer is of experiment {known}, and its model was built without one: pass "
                f"experiment={known.name!r} to ResidualDiffusion too, or import both from one module"
            )
        automatic = bool(getattr(diffusion_model, "automatic", False))
        radam = later and (num_unet == 2 or not (automatic or known is AOSA))
        settings = published_settings(
            steps=train_num_steps,
            batch_size=train_batch_size * (1 if split_batches else world_size()),
            accumulate=gradient_accumulate_every,
            lr=train_lr,
            optimizer="radam" if radam else "adam",
            optimizers="each" if later and num_unet == 2 else "one",
            betas=(0.9, 0.999) if radam else adam_betas,
            ema_decay=ema_decay,
            ema_every=ema_update_every,
            fp16=fp16,
        )
        sources = Sources(
            folder,
            known,
            condition=condition,
            image_size=diffusion_model.image_size,
            flip=augment_flip,
            grey=convert_image_to == "L" or diffusion_model.channels == 1,
            crop_patch=crop_patch,
            equalize=equalizeHist,
            faces=generation,
            seed=settings.seed,
        )
        self.num_samples, self.image_size = num_samples, diffusion_model.image_size
        self.batch_size, self.gradient_accumulate_every = train_batch_size, gradient_accumulate_every
        self.condition, self.crop_patch, self.sub_dir = condition, crop_patch, sub_dir
        self.num_unet, self.experiment = num_unet, known
        self._inputs, self.sample_dataset = sources.test_files, sources.testing()
        super().__init__(
            diffusion_model,
            sources.training(train_num_steps * settings.batch_size * gradient_accumulate_every),
            results_folder,
            settings,
            save_and_sample_every=save_and_sample_every,
            strict=strict,
        )

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
            count, first = len(self._inputs), milestone * self.num_samples
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

        The coefficients are first rebuilt as the experiment's source does (`ResidualDiffusion.init`), where it does.

        `sample=True` writes the input and the noisy start beside the result; `last` and `FID` are those of `sample`.
        """
        if not self.accelerator.is_main_process:
            return
        if self.experiment is not None and self.experiment.test_init:
            self.ema_model.init()
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
            name = f"{path.parent.name}_{path.name}" if self.sub_dir else path.name
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
