"""DiffUIR's `Trainer`, with its arguments and files.

It differs from the published one where that has a defect: random numbers depend on the step, so that a resumed run
repeats the uninterrupted one; the model is also saved after the last step; `test` writes the restored images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...images.picture import Picture, write_image
from ...restoration.metrics import luma, psnr, ssim
from .run import PublishedRun, published_settings

SHARES = (4, 1, 2, 2, 1)
"""Images of each data set in a batch: fog, low light, rain, snow, blur."""


class Mixed(Dataset[dict[str, Any]]):
    """Batches of several data sets, in fixed shares, as one data set that is read in order.

    Args:
        datasets: one per share; items are `{"gt", "adap", "A_paths"}`, the truth and the input in [0, 1].
        length: number of items.
        seed: each data set has its own random order in each pass over it.

    Raises:
        ValueError: another number of data sets than shares.
    """

    def __init__(self, datasets: Sequence[Dataset[Any]], length: int, seed: int) -> None:
        if len(datasets) != len(SHARES):
            raise ValueError(f"DiffUIR trains on {len(SHARES)} data sets, not {len(datasets)}: pass one per task")
        self.datasets, self.length, self.seed = list(datasets), length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch, place = divmod(index, sum(SHARES))
        which = int(np.searchsorted(np.cumsum(SHARES), place, side="right"))
        number = batch * SHARES[which] + place - sum(SHARES[:which])
        dataset: Any = self.datasets[which]
        passes, at = divmod(number, len(dataset))
        order = np.random.default_rng((self.seed, which, passes)).permutation(len(dataset))
        item = dataset[int(order[at])]
        return {"target": item["gt"], "input": item["adap"]}


class Trainer(PublishedRun):
    """Trains a `rddm_fast.compat.diffuir.ResidualDiffusion`. The arguments are the published ones.

    Args:
        dataset: five data sets to train on, in the order of `SHARES`, or the one to test; `Mixed` says what their items
            hold.
        opts: an object whose `phase` is "train" or "test".
        train_batch_size: accepted without effect, as published: a batch has 10 images.
        gradient_accumulate_every: batches per step.
        save_and_sample_every: the model is saved every ten times that many steps, as
            `model-{step // save_and_sample_every}.pt`.

    The seed is torch's (`set_seed`).

    Raises:
        ValueError: another number of data sets.
    """

    def __init__(
        self,
        diffusion_model: Any,
        dataset: Any,
        opts: Any,
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
        num_unet: int = 1,
        num_samples: int = 25,
        results_folder: str = "./results/sample",
        amp: bool = False,
        fp16: bool = False,
        split_batches: bool = True,
        convert_image_to: str | None = None,
        condition: bool = False,
        sub_dir: bool = False,
    ) -> None:
        settings = published_settings(
            steps=train_num_steps,
            batch_size=sum(SHARES),
            accumulate=gradient_accumulate_every,
            lr=train_lr,
            betas=adam_betas,
            ema_decay=ema_decay,
            ema_every=ema_update_every,
            fp16=fp16,
        )
        training = opts.phase == "train"
        self.sample_dataset = None if training else dataset
        length = train_num_steps * settings.batch_size * gradient_accumulate_every
        images: Any = Mixed(dataset, length, settings.seed) if training else []
        super().__init__(
            diffusion_model,
            images,
            results_folder,
            settings,
            save_and_sample_every=save_and_sample_every,
            strict=True,
        )

    @torch.no_grad()
    def test(self, sample: bool = False, last: bool = True, FID: bool = False) -> None:
        """Restore the test images, write them by their names, and print the mean PSNR and SSIM of their luma.

        Where a name comes again, from another folder, the image's number is added to it.
        """
        if self.sample_dataset is None:
            raise ValueError("opts.phase is 'train', so there are no images to test: build the Trainer with 'test'")
        self.ema_model.init()
        scores: list[list[float]] = []
        names: set[str] = set()
        for number in range(len(self.sample_dataset)):
            item = self.sample_dataset[number]
            restored = self.ema_model.sample(item["adap"][None].to(self.device))[-1][0].cpu().clamp(0, 1)
            name = Path(item["A_paths"]).stem
            name = f"{name}-{number}" if name in names else name
            names.add(name)
            write_image(self.results_folder / f"{name}.png", Picture(pixels=restored))
            pair = [luma(image[None]) for image in (restored, item["gt"].clamp(0, 1))]
            scores.append([float(metric(*pair)) for metric in (psnr, ssim)])
        means = np.mean(scores, axis=0)
        self.accelerator.print(f"PSNR {means[0]:.4f} dB, SSIM {means[1]:.4f} on luma, over {len(scores)} images")
