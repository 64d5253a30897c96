"""DiffUIR's Trainer: five data sets in fixed shares, its files, its test, and the same image elsewhere."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from published_scripts import photograph
from small_models import assert_same_bits, seeded
from torch.utils.data import Dataset

from rddm_fast.compat.diffuir import ResidualDiffusion, Trainer, UnetRes, set_seed
from rddm_fast.compat.trainers.diffuir import SHARES, Mixed
from rddm_fast.images.picture import read_image
from rddm_fast.models.published import load_published

STEPS = 20


class Task(Dataset[dict[str, Any]]):
    """Three images of a task; the truth's first pixel says which task and which image it is."""

    def __init__(self, number: int, path: str = "/data/{task}/x/input/{index}.jpg") -> None:
        self.number, self.path = number, path

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        truth = photograph(10 * self.number + index, 18, 16 + 4 * index if self.number == 9 else 16)
        truth[:, 0, 0] = (10 * self.number + index) / 100
        path = self.path.format(task=self.number, index=index)
        return {"gt": truth, "adap": truth * 0.5 + 0.3, "A_paths": path}


def phase(name: str) -> Namespace:
    return Namespace(phase=name)


def trainer_of(dataset: Any, folder: Path, name: str = "train", **options: Any) -> Trainer:
    set_seed(10)
    network = UnetRes(
        dim=8, dim_mults=(1, 2), num_unet=1, condition=True, objective="pred_res", test_res_or_noise="res"
    )
    diffusion = ResidualDiffusion(
        network,
        image_size=16,
        timesteps=1000,
        delta_end=1.8e-3,
        sampling_timesteps=3,
        objective="pred_res",
        loss_type="l1",
        condition=True,
        sum_scale=0.01,
        test_res_or_noise="res",
    )
    settings: dict[str, Any] = {"train_num_steps": STEPS, "save_and_sample_every": 2, **options}
    return Trainer(
        diffusion,
        dataset,
        phase(name),
        train_batch_size=10,
        num_samples=1,
        train_lr=8e-5,
        convert_image_to="RGB",
        results_folder=str(folder),
        condition=True,
        num_unet=1,
        **settings,
    )


def test_a_batch_has_4_1_2_2_and_1_of_the_data_sets() -> None:
    mixed = Mixed([Task(number) for number in range(5)], 60, seed=0)
    seen: dict[int, list[int]] = {number: [] for number in range(5)}
    for batch in range(6):
        marks = [round(100 * float(mixed[10 * batch + place]["target"][0, 0, 0])) for place in range(10)]
        assert [sum(mark // 10 == number for mark in marks) for number in range(5)] == list(SHARES) == [4, 1, 2, 2, 1]
        for mark in marks:
            seen[mark // 10].append(mark % 10)
    for images in seen.values():  # each pass over a data set takes each of its images once
        passes = [images[i : i + 3] for i in range(0, len(images), 3)]
        assert len(passes) > 1 and all(sorted(each) == [0, 1, 2] for each in passes)
    assert len({tuple(seen[0][i : i + 3]) for i in range(0, 24, 3)}) > 1
    again = Mixed(mixed.datasets, 60, seed=0)
    assert all(torch.equal(again[i]["target"], mixed[i]["target"]) for i in reversed(range(60)))


def test_it_trains_saves_loads_and_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of([Task(number) for number in range(5)], tmp_path / "ckpt_universal")
    trainer.train()
    assert trainer.step == STEPS and not list(tmp_path.glob("**/sample-*"))
    content = torch.load(tmp_path / "ckpt_universal" / "model-10.pt", weights_only=True)
    assert list(content) == ["step", "model", "opt0", "ema", "scaler"] and content["step"] == STEPS
    assert {"delta", "delta_cumsum"} <= content["model"].keys()
    (optimizer,) = trainer._core.phase.optimizers
    assert type(optimizer.optimizer) is torch.optim.Adam and optimizer.param_groups[0]["betas"] == (0.9, 0.99)

    # Its test.py builds another Trainer, with the images to test, and loads.
    tester = trainer_of(Task(9), tmp_path / "ckpt_universal", "test")
    tester.load(10)
    assert tester.step == STEPS
    assert_same_bits(tester.ema_model.state_dict(), trainer.ema_model.state_dict())
    trained = tester.model.alphas.clone()
    tester.set_results_folder(tmp_path / "results")
    capsys.readouterr()
    tester.test(last=True)
    found = re.search(r"PSNR (\S+) dB, SSIM (\S+) on luma, over 3 images", capsys.readouterr().out)
    assert found is not None and 0 < float(found[1]) < 60 and -1 <= float(found[2]) <= 1
    assert trained[0] == 0 and tester.ema_model.alphas[0] == tester.ema_model.alphas[1]  # as its init() makes them
    sizes = [read_image(tmp_path / "results" / f"{i}.png").pixels.shape for i in range(3)]
    assert sizes == [(3, 18, 16), (3, 18, 20), (3, 18, 24)]

    # Its file gives the same image elsewhere.
    path, degraded = tmp_path / "ckpt_universal" / "model-10.pt", Task(9)[1]["adap"][None]
    loaded = load_published(path, experiment="diffuir", sampling_timesteps=3)
    assert loaded.schedule.recipe["delta_end"] == pytest.approx(1.8e-3)
    theirs = tester.ema_model.sample(degraded, generator=seeded(7))[-1]
    torch.testing.assert_close(loaded.sample(degraded, generator=seeded(7))[-1], theirs, rtol=0, atol=1e-5)
    assert loaded.schedule.sum_scale == 0.01 and theirs.std() > 1e-3


def test_images_of_one_name_are_numbered(tmp_path: Path) -> None:
    tester = trainer_of(Task(9, "/data/{index}/rain.png"), tmp_path, "test")
    tester.test()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rain-1.png", "rain-2.png", "rain.png"]


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DiffUIR trains on 5 data sets, not 4: pass one per task"):
        trainer_of([Task(number) for number in range(4)], tmp_path)
    with pytest.raises(ValueError, match=r"opts\.phase is 'train', so there are no images to test"):
        trainer_of([Task(number) for number in range(5)], tmp_path).test()
