"""The published Trainer: a published train.py runs with another import line, and its files are the published ones."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import assert_same_bits, images, published_model

from rddm_fast import compat
from rddm_fast.compat import Trainer, set_seed
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.models.published import load_published
from rddm_fast.restoration.demo import photographs

# In the published scripts' form; only the import line and the numbers that make it quick are other ones.
SCRIPT = """
import os
import sys

from rddm_fast.compat import ResidualDiffusion, Trainer, Unet, UnetRes, set_seed

os.environ['CUDA_VISIBLE_DEVICES'] = ','.join(str(e) for e in [0])
sys.stdout.flush()
set_seed(10)
save_and_sample_every = 2
if len(sys.argv) > 1:
    sampling_timesteps = int(sys.argv[1])
else:
    sampling_timesteps = 10
train_num_steps = 4
condition = True
input_condition = False
input_condition_mask = False
folder = ["lists/train_gt.flist", "lists/train_input.flist", "lists/test_gt.flist", "lists/test_input.flist"]
train_batch_size = 1
num_samples = 1
sum_scale = 1
image_size = 32
model = UnetRes(dim=8, dim_mults=(1, 2), share_encoder=0, condition=condition, input_condition=input_condition)
diffusion = ResidualDiffusion(
    model,
    image_size=image_size,
    timesteps=1000,           # number of steps
    sampling_timesteps=sampling_timesteps,
    objective='pred_res_noise',
    loss_type='l1',            # L1 or L2
    condition=condition,
    sum_scale=sum_scale,
    input_condition=input_condition,
    input_condition_mask=input_condition_mask
)
trainer = Trainer(
    diffusion,
    folder,
    train_batch_size=train_batch_size,
    num_samples=num_samples,
    train_lr=8e-5,
    train_num_steps=train_num_steps,         # total training steps
    gradient_accumulate_every=2,    # gradient accumulation steps
    ema_decay=0.995,                # exponential moving average decay
    amp=False,                        # turn on mixed precision
    convert_image_to="RGB",
    condition=condition,
    save_and_sample_every=save_and_sample_every,
    equalizeHist=False,
    crop_patch=False,
    generation=False
)
if not trainer.accelerator.is_local_main_process:
    pass
else:
    trainer.load(80)

# train
trainer.train()

# test
if not trainer.accelerator.is_local_main_process:
    pass
else:
    trainer.load(trainer.train_num_steps//save_and_sample_every)
    trainer.set_results_folder('./results/test_timestep_'+str(sampling_timesteps))
    trainer.test(last=True)
"""


@pytest.fixture
def raindrops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Crops of real photographs, three to train on and two to test, darkened, named as published lists name them."""
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 3), ("test", 2)):
        names: dict[str, list[str]] = {"gt": [], "input": [], "mask": []}
        for i in range(count):
            truth = read_image(photographs()[i]).pixels[:, 40 : 80 + 8 * i, 30:90]
            for kind, image in (("gt", truth), ("input", truth * 0.5), ("mask", (truth > 0.5).float())):
                path = tmp_path / part / kind / f"{i}_{'clean' if kind == 'gt' else 'rain'}.png"
                write_image(path, Picture(pixels=image))
                names[kind].append(str(path))
        for kind, paths in names.items():
            (tmp_path / "lists").mkdir(exist_ok=True)
            (tmp_path / "lists" / f"{part}_{kind}.flist").write_text("\n".join(paths) + "\n")
    return tmp_path


def lists(*names: str) -> list[str]:
    return [f"lists/{name}.flist" for name in names]


def trainer_of(folder: Any, **options: Any) -> Trainer:
    set_seed(10)
    kinds = {"condition": True, "input_condition": False, **options.pop("network", {})}
    networks = options.get("num_unet", 2)
    losses = {"objective": "pred_res_noise" if networks == 2 else "pred_res", "loss_type": "l2"}
    losses["experiment"] = "generation"
    diffusion = published_model({"num_unet": networks}, test_res_or_noise="res_noise", sum_scale=1, **losses, **kinds)
    settings = {"train_batch_size": 2, "num_samples": 1, "train_num_steps": 2, "save_and_sample_every": 1, **options}
    return Trainer(diffusion, folder, condition=kinds["condition"], **settings)


def test_a_published_script_runs(raindrops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "2"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names: dict[str, Any] = {}
    with pytest.warns(UserWarning, match=r"there is no results/sample/model-80\.pt: the weights stay as they are"):
        exec(SCRIPT, names)
    trainer = names["trainer"]
    sheets = sorted(path.name for path in Path("results/sample").glob("sample-*"))
    assert trainer.step == 4 and sheets == ["sample-1.png", "sample-2.png"]
    for i in range(2):
        assert read_image(f"results/test_timestep_2/{i}_rain.png").pixels.shape == (3, 32, 32)
    sheet = read_image("results/sample/sample-2.png").pixels
    assert sheet.shape == (3, 4 * 34 - 2, 32)  # truth, input, its noisy start, result

    content = torch.load("results/sample/model-2.pt", weights_only=True)
    assert list(content) == ["step", "model", "opt", "ema", "scaler"] and content["step"] == 4
    assert list(content["ema"])[:2] == ["initted", "step"] and int(content["ema"]["step"]) == 4
    assert (content["ema"]["initted"].shape, content["ema"]["step"].shape) == ((1,), (1,))

    # `load_published` reads the model that was tested: the same noise gives the same image.
    loaded = load_published("results/sample/model-2.pt", experiment="restoration")
    x = images(1, 3, 16, 16)
    draws = [torch.randn(1, 3, 16, 16)]
    theirs = trainer.ema_model.sample([x], draws=iter(draws))[-1]
    ours = loaded.sample(x, sampling_timesteps=2, draws=iter(draws))[-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_two_networks_have_two_optimisers(raindrops: Path) -> None:
    trainer = trainer_of(lists("train_gt", "train_input", "test_input"), num_unet=2, train_lr=2e-4)
    trainer.train()
    content = torch.load("results/sample/model-2.pt", weights_only=True)
    assert list(content) == ["step", "model", "opt0", "opt1", "ema", "scaler"]
    kinds = [type(optimizer.optimizer) for optimizer in trainer._core.phase.optimizers]
    assert kinds == [torch.optim.RAdam] * 2
    keys = [len(content[name]["state"]) for name in ("opt0", "opt1")]
    assert keys == [len(list(unet.parameters())) for unet in trainer.model.model.members]
    sheet = read_image("results/sample/sample-2.png").pixels
    assert sheet.shape == (3, 3 * 18 - 2, 16)  # without truth: input, its noisy start, result


def test_a_run_goes_on_from_its_file_to_the_same_bits(raindrops: Path) -> None:
    sources = lists("train_gt", "train_input", "test_gt", "test_input")
    whole = trainer_of(sources, train_num_steps=4, results_folder="whole")
    whole.train()
    first = trainer_of(sources, train_num_steps=4, results_folder="cut")
    for progress in first._core.run():
        if progress.step == 2:
            break
    first.save(2)
    again = trainer_of(sources, train_num_steps=4, results_folder="cut")
    again.load(2)
    assert again.step == 2
    again.train()
    for ours, theirs in ((again.model, whole.model), (again.ema_model, whole.ema_model)):
        assert_same_bits(ours.state_dict(), theirs.state_dict())


def test_masks_are_the_third_of_six(raindrops: Path) -> None:
    sources = lists(*(f"{part}_{kind}" for part in ("train", "test") for kind in ("gt", "input", "mask")))
    trainer = trainer_of(sources, network={"input_condition": True}, equalizeHist=True, crop_patch=True)
    trainer.train()
    trainer.test()
    for i in range(2):  # whole images, each of its own size
        assert read_image(f"results/sample/{i}_rain.png").pixels.shape == (3, 40 + 8 * i, 60)
    trainer.set_results_folder("results/by_folder")
    trainer.sub_dir = True
    trainer.test()
    assert sorted(p.name for p in Path("results/by_folder").iterdir()) == ["input_0_rain.png", "input_1_rain.png"]
    trainer.set_results_folder("results/all")
    trainer.sub_dir = False
    trainer.test(sample=True)
    assert read_image("results/all/0_rain.png").pixels.shape == (3, 4 * 42 - 2, 60)


def test_generation_is_of_the_folder_that_is_named(raindrops: Path) -> None:
    trainer = trainer_of("train/gt", network={"condition": False}, generation=True, num_samples=4)
    trainer.train()
    assert read_image("results/sample/sample-2.png").pixels.shape == (3, 16, 4 * 18 - 2)
    trainer.total_n_samples, trainer.test_sheets = 6, 2
    trainer.set_results_folder("results/fid")
    trainer.test(FID=True)
    assert sorted(p.name for p in Path("results/fid").iterdir()) == [f"sample-{i}.png" for i in range(6)]
    assert read_image("results/fid/sample-5.png").pixels.shape == (3, 16, 16)
    trainer.set_results_folder("results/sheets")
    trainer.test()
    assert len(list(Path("results/sheets").iterdir())) == 2


def test_lines_are_paired_by_order(raindrops: Path) -> None:
    """As the published lists mean it, whatever the files are called; folders are paired by name."""
    for i, name in enumerate(("b", "a", "c")):
        (raindrops / "train" / "gt" / f"{i}_clean.png").rename(raindrops / "train" / "gt" / f"{name}.png")
    text = "\n".join(str(raindrops / "train" / "gt" / f"{name}.png") for name in ("b", "a", "c"))
    Path("lists/train_gt.flist").write_text(text)
    trainer = trainer_of(lists("train_gt", "train_input", "test_input"), augment_flip=False)
    pairs = trainer._core.dataset.items.pairs  # type: ignore[attr-defined]
    assert [(p.input.stem, p.target.stem) for p in pairs] == [("0_rain", "b"), ("1_rain", "a"), ("2_rain", "c")]
    Path("lists/train_gt.flist").write_text(text.splitlines()[0])
    with pytest.raises(ValueError, match=r"names 3 images and lists/train_gt\.flist 1: lines are paired by order"):
        trainer_of(lists("train_gt", "train_input", "test_input"))


def test_atdp_then_a_trainer_of_what_was_decided(raindrops: Path) -> None:
    sources = lists("train_gt", "train_input", "test_gt", "test_input")

    def get_trainer(predict_res_or_noise: int | None, train_lr: float) -> Trainer:
        automatic: dict[str, Any] = {"objective": "auto_res_noise", "test_res_or_noise": "res_noise"}
        ddim = {"sum_scale": 1, "experiment": "aosa", "alpha_res_to_0_or_1": predict_res_or_noise}
        diffusion = published_model({"num_unet": 1, **automatic}, **automatic, **ddim)
        settings: dict[str, Any] = {"train_num_steps": 6, "save_and_sample_every": 3, "num_samples": 1, "num_unet": 1}
        settings |= {"train_batch_size": 1, "train_lr": train_lr, "condition": True, "generation": True}
        return Trainer(diffusion, sources, **settings)

    first = get_trainer(None, train_lr=4e-3)
    decided = first.train(ATDP=True)
    alpha_res = float(first.model.alpha_res.detach())
    assert decided == int(alpha_res > 0.5) and abs(alpha_res - 0.5) >= 0.01 and first.step < 6
    assert not list(Path("results/sample").glob("*.pt"))

    second = get_trainer(decided, train_lr=8e-5)
    assert second.train(ATDP=False) is None and second.step == 6
    content = torch.load("results/sample/model-2.pt", weights_only=True)
    assert next(iter(content["model"])) == "alpha_res" and float(content["model"]["alpha_res"]) == decided
    assert list(content) == ["step", "model", "opt0", "ema", "scaler"]
    second.load(2)
    second.test(last=True)
    assert read_image("results/sample/1_rain.png").pixels.shape == (3, 16, 16)
    with pytest.raises(ValueError, match="build the model with objective='auto_res_noise'"):
        second.train(ATDP=True)


def test_an_undecided_training_is_saved_as_it_is_or_refused(raindrops: Path) -> None:
    automatic = {"objective": "auto_res_noise", "test_res_or_noise": "res_noise"}
    sources = lists("train_gt", "train_input", "test_input")

    def undecided(**options: Any) -> Trainer:
        diffusion = published_model({"num_unet": 1, **automatic}, sum_scale=1, experiment="aosa", **automatic)
        settings = {"train_num_steps": 10, "save_and_sample_every": 1, "num_samples": 1, "train_lr": 1e-6, **options}
        return Trainer(diffusion, sources, train_batch_size=1, num_unet=1, condition=True, **settings)

    trainer = undecided()
    with pytest.warns(
        UserWarning, match=r"within 0\.01 of 1/2, so nothing is decided: .*; the script continues undecided"
    ):
        assert trainer.train() is None
    saved = torch.load("results/sample/model-10.pt", weights_only=True)
    assert saved["step"] == 10 and 0 < abs(float(saved["model"]["alpha_res"]) - 0.5) < 0.01
    with pytest.raises(ValueError, match=r"within 0\.01 of 1/2, so nothing is decided"):
        undecided(strict=True).train(ATDP=True)


@pytest.mark.parametrize(
    ("folder", "options", "sentence"),
    [
        ("train/gt", {}, "to restore, folder is a list of 3"),
        (["train/gt"] * 5, {}, "to restore, folder is a list of 3"),
        (["train/gt"] * 3, {"network": {"condition": False}}, "to generate, folder is one folder"),
        (["train/gt"] * 3, {"num_samples": 3}, "num_samples is 3: it must be a square number"),
    ],
)
def test_a_mistake_is_one_sentence(folder: Any, options: Any, sentence: str, raindrops: Path) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        trainer_of(folder, **options)
    assert "\n" not in str(raised.value)


def test_a_file_of_another_experiment_is_named(raindrops: Path) -> None:
    sources = lists("train_gt", "train_input", "test_input")
    trainer_of(sources, num_unet=1).save(7)
    with pytest.raises(ValueError, match=r"model-7\.pt holds no 'opt1': it is of another experiment, check num_unet"):
        trainer_of(sources, num_unet=2).load(7)


def test_what_is_not_a_published_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Trainer trains a ResidualDiffusion of rddm_fast\.compat"):
        compat.Trainer(torch.nn.Linear(1, 1), "folder")
