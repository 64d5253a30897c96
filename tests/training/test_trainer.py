"""Training: it learns, it can be interrupted, and what it writes loads."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small_model
from train_worker import Pairs, weights

from rddm_fast import compat
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model
from rddm_fast.ops import noise
from rddm_fast.theory.schedule import Schedule
from rddm_fast.training.batches import batches
from rddm_fast.training.ema import Ema, published_decay
from rddm_fast.training.log import read_log
from rddm_fast.training.losses import Draws, losses_of
from rddm_fast.training.settings import SettingsError, TrainSettings
from rddm_fast.training.trainer import Interrupted, Progress, Trainer

SETTINGS = TrainSettings(steps=8, batch_size=2, warmup=2, lr=1e-3, ema_decay=0.9, plot=False)


def trainer(folder: Path, settings: TrainSettings = SETTINGS, objective: str = "pred_res") -> Trainer:
    return Trainer(small_model(objective, clip_res=2.0), Pairs(), folder, settings, info={"task": "test"})


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_at_the_same_bits(received: signal.Signals, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), received)

    with pytest.raises(Interrupted, match="stopped at step 3 of 8: run the same command again to resume"):
        trainer(tmp_path / "cut").train(interrupt)
    again = trainer(tmp_path / "cut")
    assert again.step == 3
    again.train()
    ours, theirs = weights(again), weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """`save_every` seconds apart: with 0, after every step."""
    settings = replace(SETTINGS, steps=4)
    whole = trainer(tmp_path / "whole", settings)
    whole.train()

    def die(progress: Progress) -> None:
        if progress.step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path / "cut", replace(settings, save_every=0.0)).train(die)
    again = trainer(tmp_path / "cut", settings)
    assert again.step == 2
    again.train()
    ours, theirs = weights(again), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_self_conditioned_run_is_the_same_again(tmp_path: Path) -> None:
    """Half of its steps are conditioned on an own estimate: which ones follows from the seed and the step."""
    settings = replace(SETTINGS, steps=2)
    runs = []
    for seed in (1, 2):  # of Python's generator, which training does not own
        random.seed(seed)
        run = Trainer(small_model("pred_res", self_condition=True), Pairs(), tmp_path / str(seed), settings)
        run.train()
        runs.append(weights(run))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("objective", "options"),
    [("pred_res", {"input_condition": True}), ("pred_noise", {"condition": False, "image_size": 16})],
    ids=["mask", "generation"],
)
def test_other_kinds_of_models_are_trained(objective: str, options: dict[str, Any], tmp_path: Path) -> None:
    diffusion = small_model(objective, **options)
    before = {name: value.clone() for name, value in diffusion.model.state_dict().items()}
    dataset = Pairs(masks="input_condition" in options)
    Trainer(diffusion, dataset, tmp_path, replace(SETTINGS, steps=2, sample_every=2, samples=3)).train()
    rows = 3 if diffusion.condition else 1
    assert read_image(tmp_path / "samples" / "step-00000002.png").pixels.shape == (3, 18 * rows - 2, 18 * 3 - 2)
    after = load_model(tmp_path / "model")
    assert after.input_condition == diffusion.input_condition and after.condition == diffusion.condition
    assert all(not torch.equal(value, before[name]) for name, value in diffusion.model.state_dict().items())


def test_a_model_of_the_published_class_is_trained_too(tmp_path: Path) -> None:
    network = compat.UnetRes(16, dim_mults=(1, 2), share_encoder=-1, condition=True)
    diffusion = compat.ResidualDiffusion(network, image_size=16, objective="pred_res", condition=True)
    run = Trainer(diffusion, Pairs(), tmp_path, replace(SETTINGS, steps=2))
    run.train()
    assert run.step == 2 and load_model(tmp_path / "model").objective.name == "pred_res"


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    seen: list[Progress] = []
    again = trainer(tmp_path)
    again.train(seen.append)
    assert not seen and again.step == 8


def test_what_is_exported_is_the_average_in_float16(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    folder = run.train()
    model = load_model(folder)
    averaged = run.ema.module.model.state_dict()
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, averaged[name].half().float()), name
    changed = [not torch.equal(value, run.diffusion.model.state_dict()[name]) for name, value in averaged.items()]
    assert all(changed)
    assert (model.clip_res, model.sampling_timesteps, model.objective.name) == (2.0, 3, "pred_res")


def test_the_average_follows_its_definition(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    name = "model.unet0.final_conv.weight"
    average = run.diffusion.state_dict()[name].double()  # n = 0 copies
    expected = None
    for n, step_batches in zip(range(4), batches(Pairs(), SETTINGS, 0, (0, 1)), strict=False):
        run.phase.advance(step_batches)
        now = run.diffusion.state_dict()[name].double()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = now if n == 0 else decay * average + (1 - decay) * now
        average = expected
    assert expected is not None
    torch.testing.assert_close(run.ema.module.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_another_run_s_folder_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    with pytest.raises(ValueError, match=r"was trained with lr=0\.001, not 0\.002: use its settings to resume"):
        trainer(tmp_path, replace(SETTINGS, lr=2e-3))
    assert (
        trainer(tmp_path, replace(SETTINGS, save_every=1.0, log_every=3, keep=5)).step == 8
    )  # no weight depends on it


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("one_step")
    trainer(folder, replace(SETTINGS, steps=1)).train()
    return folder


@pytest.mark.parametrize(
    "other",
    [
        {"objective": "pred_x0"},
        {"objective": "pred_res_noise"},
        {"schedule": Schedule.power(1000, 1.0)},
        {"path_independent": True},
        {"loss_type": "l2"},
    ],
    ids=["objective", "networks", "schedule", "times", "loss"],
)
def test_another_model_s_folder_is_refused(other: dict[str, Any], one_step: Path) -> None:
    diffusion = small_model(**{"objective": "pred_res", "clip_res": 2.0, **other})
    with pytest.raises(ValueError, match=r"checkpoint-00000001\.pt is of another model") as raised:
        Trainer(diffusion, Pairs(), one_step, replace(SETTINGS, steps=1))
    assert "\n" not in str(raised.value)


def test_the_rate_without_a_warmup_and_after_the_end() -> None:
    assert TrainSettings(steps=10, warmup=0).lr_at(0) == 1.0
    assert TrainSettings(steps=10, warmup=0).lr_at(5) == pytest.approx(0.5)
    assert TrainSettings(steps=10, warmup=2).lr_at(25) == pytest.approx(0.0)
    assert TrainSettings(steps=10, warmup=10).lr_at(9) == 1.0


def test_the_reported_loss_is_the_mean_of_the_steps_so_far(tmp_path: Path) -> None:
    reports: list[Progress] = []
    trainer(tmp_path / "a", replace(SETTINGS, steps=3)).train(reports.append)
    again = trainer(tmp_path / "b", replace(SETTINGS, steps=3))
    losses = [again.phase.advance(b)[0] for b in batches(Pairs(), replace(SETTINGS, steps=3), 0, (0, 1))]
    assert [r.step for r in reports] == [1, 2, 3] and all(r.images_per_second > 0 for r in reports)
    means = [sum(losses[: n + 1]) / (n + 1) for n in range(3)]
    assert [r.loss for r in reports] == pytest.approx(means, rel=1e-6)


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    settings = TrainSettings(steps=1100, warmup=100)
    at = [settings.lr_at(step) for step in (0, 49, 99, 100, 600, 1100)]
    assert at == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_it_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    settings = TrainSettings(steps=60, batch_size=4, warmup=5, lr=3e-3, plot=False)
    run = trainer(tmp_path, settings)
    run.train(lambda progress: losses.append(progress.loss))
    first = losses[0]
    recent = 60 * losses[59] - 50 * losses[49]  # the mean so far, of fewer than 100, undone
    assert recent / 10 < 0.5 * first

    x = Pairs()[999]
    restored = load_model(tmp_path / "model").sample(x["input"][None])[-1][0]
    assert (restored - x["target"]).abs().mean() < 0.5 * (x["input"] - x["target"]).abs().mean()


# -- the loss ------------------------------------------------------------------------------------------------


def sums(objective: str, loss_type: str, share: tuple[int, int] = (0, 1), lam: float = 0.5) -> list[torch.Tensor]:
    """The loss, its parts and the gradients of one batch of two, seed 9, stream 4."""
    model = small_model(objective, loss_type=loss_type)
    generator = torch.Generator().manual_seed(2)
    items = [Pairs()[i] for i in range(2)][share[0] : len(range(2)) if share[1] == 1 else share[0] + 1]
    I_0, I_in = (torch.stack([item[name] for item in items]) * 2 - 1 for name in ("target", "input"))
    loss, parts = losses_of(model, lam)(I_0, I_in, None, draws=Draws(generator, 9, 4, share))
    loss.backward()
    return [loss.detach(), parts.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("objective", ["pred_res_noise", "pred_res_add_noise", "pred_x0_noise", "pred_x0_add_noise"])
def test_the_fused_loss_is_the_published_sum(objective: str, loss_type: str) -> None:
    """At lambda 1/2 the scaled joint loss, its noise drawn in the kernels, is the sum of both losses by torch."""
    loss, parts, *gradients = sums(objective, loss_type)
    model = small_model(objective, loss_type=loss_type)
    I_0, I_in = (torch.stack([Pairs()[i][name] for i in range(2)]) * 2 - 1 for name in ("target", "input"))
    t = torch.randint(0, 1000, (2,), generator=torch.Generator().manual_seed(2))
    plain = torch.stack(model.losses(I_0, I_in, t, noise=noise(I_0.shape, 9, 4)))
    plain.sum().backward()
    torch.testing.assert_close(parts, plain.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, plain.sum().detach(), rtol=1e-5, atol=1e-6)
    scale = max(float(g.abs().max()) for g in gradients)
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        assert (ours - parameter.grad).abs().max() < 1e-4 * scale


def test_lambda_weighs_the_two_losses() -> None:
    for lam in (0.0, 0.3, 1.0):
        loss, parts, *_ = sums("pred_res_noise", "l1", lam=lam)
        torch.testing.assert_close(loss, 2 * (lam * parts[0] + (1 - lam) * parts[1]))


@pytest.mark.parametrize("objective", ["pred_res", "pred_res_noise"])
def test_two_shares_make_the_whole_batch(objective: str) -> None:
    """What two processes compute, averaged, is what one computes: the same times and the same noise."""
    whole = sums(objective, "l1")
    halves = [sums(objective, "l1", share=(rank, 2)) for rank in range(2)]
    for all_of_it, *parts in zip(whole, *halves, strict=True):
        torch.testing.assert_close((parts[0] + parts[1]) / 2, all_of_it, rtol=1e-4, atol=2e-6)


# -- optimisers and steps ------------------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_a_batch_as_large(tmp_path: Path) -> None:
    """Of the same images, times and noise: those of the second half are drawn after the first's."""
    run = trainer(tmp_path, replace(SETTINGS, accumulate=2, grad_clip=0.0))
    one_step = next(batches(Pairs(), run.settings, 0, (0, 1)))
    assert [batch["name"] for batch in one_step] == [["0", "1"], ["2", "3"]]
    before = {name: p.detach().clone() for name, p in run.diffusion.named_parameters()}
    gradients: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        gradients.update({name: p.grad.clone() for name, p in run.diffusion.named_parameters()})

    run.phase.optimizers[0].optimizer.register_step_pre_hook(keep)
    loss, parts = run.phase.advance(one_step)

    alone = small_model("pred_res", clip_res=2.0)
    assert all(torch.equal(p, before[name]) for name, p in alone.named_parameters())
    generator = torch.Generator().manual_seed(0)
    losses = []
    for batch in one_step:
        t = torch.randint(0, 1000, (2,), generator=generator)
        epsilon = torch.randn(2, 3, 16, 16, generator=generator)
        losses += alone.losses(batch["target"] * 2 - 1, batch["input"] * 2 - 1, t, noise=epsilon)
    mean = torch.stack(losses).mean()
    mean.backward()
    assert loss == pytest.approx(float(mean.detach()), rel=1e-6) and parts == pytest.approx([loss])
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_one_optimiser_each_is_what_two_separate_trainings_do(tmp_path: Path) -> None:
    """Two networks share nothing, so that each with its own RAdam and half of the loss moves as it would alone."""
    settings = replace(SETTINGS, steps=3, optimizer="radam", optimizers="each", grad_clip=0.0, betas=(0.9, 0.999))
    run = trainer(tmp_path, settings, "pred_res_noise")
    run.train()
    assert len(run.phase.optimizers) == 2 and len(run.checkpoints.latest()[1]["optimizers"]) == 2

    alone = small_model("pred_res_noise", clip_res=2.0)
    optimizers = [torch.optim.RAdam(m.parameters(), lr=1e-3, betas=(0.9, 0.999)) for m in alone.model.members]
    for step, (batch,) in enumerate(batches(Pairs(), settings, 0, (0, 1))):
        I_0, I_in = batch["target"] * 2 - 1, batch["input"] * 2 - 1
        t = torch.randint(0, 1000, (2,), generator=torch.Generator().manual_seed(step))
        losses = alone.losses(I_0, I_in, t, noise=noise(I_0.shape, 0, step))
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.param_groups[0]["lr"] = 1e-3 * settings.lr_at(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(run.diffusion.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "radam"])
def test_each_optimiser_trains(name: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(SETTINGS, steps=2, optimizer=name, weight_decay=0.1))
    run.train()
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}
    assert type(run.phase.optimizers[0].optimizer) is kinds[name]
    assert run.phase.optimizers[0].param_groups[0]["weight_decay"] == 0.1


def test_what_does_not_go_together_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train\.optimizers 'each' is for two networks"):
        trainer(tmp_path, replace(SETTINGS, optimizers="each"))
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match=r"train\.precision float16 needs a GPU"):
            trainer(tmp_path, replace(SETTINGS, precision="float16"))
    with pytest.raises(SettingsError, match=r"train\.batch_size is 2, which 3 processes cannot share evenly"):
        next(batches(Pairs(), SETTINGS, 0, (0, 3)))


def test_faster_changes_no_more_than_rounding(tmp_path: Path) -> None:
    runs = [trainer(tmp_path / str(on), replace(SETTINGS, steps=1, faster=on)) for on in (False, True)]
    losses = [run.phase.advance(next(batches(Pairs(), SETTINGS, 0, (0, 1))))[0] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert runs[1].diffusion.model.unet0.init_conv.weight.is_contiguous(memory_format=torch.channels_last)
    kinds = [{type(m).__name__ for m in run.diffusion.model.modules()} for run in runs]
    assert "LinearAttention" in kinds[0] and "LinearAttention" not in kinds[1]


def test_bfloat16_learns_almost_the_same(tmp_path: Path) -> None:
    """In a process of its own: accelerate has one precision a process."""
    code = (
        "import sys, json; sys.path.insert(0, {tests!r})\n"
        "from train_worker import *\n"
        "s = TrainSettings(steps=2, batch_size=2, plot=False, log_every=1, precision='bfloat16')\n"
        "run = Trainer(small_model('pred_res_noise'), Pairs(), {folder!r}, s)\n"
        "run.phase.model.register_forward_hook(lambda *_: print(torch.is_autocast_enabled('cpu')))\n"
        "run.train(); print(run.accelerator.mixed_precision, next(run.diffusion.parameters()).dtype)"
    )
    text = code.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "half"))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["bf16", "torch.float32"]
    full = Trainer(
        small_model("pred_res_noise"),
        Pairs(),
        tmp_path / "full",
        TrainSettings(steps=2, batch_size=2, plot=False, log_every=1),
    )
    full.train()
    half, whole = ([r["loss"] for r in read_log(tmp_path / name / "log.jsonl")] for name in ("half", "full"))
    assert half != whole and half == pytest.approx(whole, rel=2e-2)


def test_compiling_compiles_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_a, **_k: compiled.append(self))
    run = trainer(tmp_path, replace(SETTINGS, compile=True))
    assert compiled == [run.diffusion.model]


# -- the average ---------------------------------------------------------------------------------------------


def test_the_published_average() -> None:
    """The decays that ema-pytorch 0.0.10 has at these calls, with its defaults."""
    at = {k: published_decay(k, 0.995) for k in (0, 5, 100, 110, 120, 200, 1000, 2930, 10_000)}
    assert at[5] is None and at[0] == at[100] == at[110] == 0.0
    expected = {120: 1 - 21 ** (-2 / 3), 200: 0.954, 1000: 0.9893, 2930: 0.995, 10_000: 0.995}
    assert all(at[k] == pytest.approx(value, abs=6e-4) for k, value in expected.items())


def test_the_published_average_averages() -> None:
    source = torch.nn.Linear(1, 1)
    ema = Ema(source, "published", 0.995)
    values = []
    for step in range(131):
        with torch.no_grad():
            source.weight.fill_(math.sin(step))
        ema.update(source)
        values.append(float(ema.module.weight))
    assert values[99] == pytest.approx(math.sin(90)) and values[110] == pytest.approx(math.sin(110))
    decay = published_decay(120, 0.995)
    assert decay is not None
    assert values[120] == pytest.approx(decay * math.sin(110) + (1 - decay) * math.sin(120), abs=1e-6)
    assert values[129] == values[120] != values[130] and int(ema.steps) == 131


# -- what is written -----------------------------------------------------------------------------------------


def test_the_log_and_its_plot(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(SETTINGS, log_every=3, plot=True), "pred_res_noise")
    run.train()
    records = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in records] == [3, 6, 8] and all(r["phase"] == "training" for r in records)
    assert all(r["loss"] == pytest.approx(r["loss_res"] + r["loss_noise"], rel=1e-5) for r in records)
    assert records[0]["lr"] == pytest.approx(1e-3 * SETTINGS.lr_at(2))
    assert read_image(tmp_path / "loss.png").pixels.shape[0] == 3


def test_a_killed_run_s_log_has_no_line_twice_and_no_half_line(tmp_path: Path) -> None:
    settings = replace(SETTINGS, log_every=1, steps=4)
    trainer(tmp_path, settings).train()
    first = read_log(tmp_path / "log.jsonl")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    trainer(tmp_path, settings).train()
    assert read_log(tmp_path / "log.jsonl") == first


def test_tensorboard_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, -1))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    trainer(tmp_path, replace(SETTINGS, steps=2, log_every=1, tensorboard=True)).train()
    losses = [(name, value, step) for name, value, step in written if name == "loss"]
    assert losses == [("loss", r["loss"], r["step"]) for r in read_log(tmp_path / "log.jsonl")]
    assert written[-1][0] == "closed"


def test_without_tensorboard_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install tensorboard, or leave train\.tensorboard false"):
        trainer(tmp_path, replace(SETTINGS, tensorboard=True)).train()
