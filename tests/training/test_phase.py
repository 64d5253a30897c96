"""One step of training: its gradients, its optimisers, and what makes it faster."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import python
from small_models import seeded, small_model
from train_worker import SETTINGS, Pairs, trained, trainer

from rddm_fast.ops import noise
from rddm_fast.training.batches import batches
from rddm_fast.training.log import read_log
from rddm_fast.training.settings import TrainSettings


def test_accumulated_gradients_are_those_of_a_batch_as_large(tmp_path: Path) -> None:
    """On the same images, times and noise: the second half's are drawn after the first's."""
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
    generator = seeded(0)
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
    run = trained(tmp_path, settings, "pred_res_noise")
    assert len(run.phase.optimizers) == 2 and len(run.checkpoints.latest()[1]["optimizers"]) == 2

    alone = small_model("pred_res_noise", clip_res=2.0)
    optimizers = [torch.optim.RAdam(m.parameters(), lr=1e-3, betas=(0.9, 0.999)) for m in alone.model.members]
    for step, (batch,) in enumerate(batches(Pairs(), settings, 0, (0, 1))):
        I_0, I_in = batch["target"] * 2 - 1, batch["input"] * 2 - 1
        t = torch.randint(0, 1000, (2,), generator=seeded(step))
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
    run = trained(tmp_path, replace(SETTINGS, steps=2, optimizer=name, weight_decay=0.1))
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}
    assert type(run.phase.optimizers[0].optimizer) is kinds[name]
    assert run.phase.optimizers[0].param_groups[0]["weight_decay"] == 0.1


def test_faster_changes_no_more_than_rounding(tmp_path: Path) -> None:
    runs = [trainer(tmp_path / str(on), replace(SETTINGS, steps=1, faster=on)) for on in (False, True)]
    losses = [run.phase.advance(next(batches(Pairs(), SETTINGS, 0, (0, 1))))[0] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert runs[1].diffusion.model.unet0.init_conv.weight.is_contiguous(memory_format=torch.channels_last)
    kinds = [{type(m).__name__ for m in run.diffusion.model.modules()} for run in runs]
    assert "LinearAttention" in kinds[0] and "LinearAttention" not in kinds[1]


def test_bfloat16_learns_almost_the_same(tmp_path: Path) -> None:
    """In a process of its own: accelerate has one precision per process."""
    code = (
        "import sys, json; sys.path.insert(0, {tests!r})\n"
        "from train_worker import *\n"
        "s = TrainSettings(steps=2, batch_size=2, plot=False, log_every=1, precision='bfloat16')\n"
        "run = Trainer(small_model('pred_res_noise'), Pairs(), {folder!r}, s)\n"
        "run.phase.model.register_forward_hook(lambda *_: print(torch.is_autocast_enabled('cpu')))\n"
        "run.train(); print(run.accelerator.mixed_precision, next(run.diffusion.parameters()).dtype)"
    )
    text = code.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "half"))
    done = python("-c", text, check=True)
    assert done.stdout.split()[-2:] == ["bf16", "torch.float32"]
    settings = TrainSettings(steps=2, batch_size=2, plot=False, log_every=1)
    trained(tmp_path / "full", settings, small_model("pred_res_noise"))
    half, whole = ([r["loss"] for r in read_log(tmp_path / name / "log.jsonl")] for name in ("half", "full"))
    assert half != whole and half == pytest.approx(whole, rel=2e-2)


def test_compiling_compiles_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_a, **_k: compiled.append(self))
    run = trainer(tmp_path, replace(SETTINGS, compile=True))
    assert compiled == [run.diffusion.model]
