"""AOSA: the loss as the published code records it, the decision, and training after it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden import Golden, golden_cases
from small_models import assert_same_bits, images, published_model, small_model
from torch import nn
from train_worker import trained, trainer, weights

from rddm_fast import compat
from rddm_fast.models.folder import load_model
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule
from rddm_fast.training.aosa import AutoObjective, aosa_loss, draw_new_weights
from rddm_fast.training.log import plot_log, read_log
from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Undecided

FAST = TrainSettings(
    steps=8, batch_size=2, lr=4e-3, lr_schedule="constant", warmup=0, log_every=1, plot=False, ema_decay=0.9
)
"""Decides within a few steps: Adam moves lambda by about 0.004 each."""


def auto(seed: int = 0) -> AutoObjective:
    return AutoObjective(small_model("pred_res", schedule=Schedule.from_ddim(1000), seed=seed))


def published(**options: object) -> compat.ResidualDiffusion:
    """A model of the published class that chooses its objective, with DDIM's coefficients."""
    settings = {"objective": "auto_res_noise", "sum_scale": 1, "convert_to_ddim": True, **options}
    return published_model({"num_unet": 1}, **settings)


def test_every_recorded_case_is_in_a_clone() -> None:
    assert len(golden_cases("aosa")) == 8


@pytest.mark.parametrize("golden", golden_cases("aosa"))
def test_the_published_loss(golden: Golden) -> None:
    case, given = golden.case, golden.tensors
    network = compat.UnetRes(case["dim"], dim_mults=case["dim_mults"], num_unet=1, condition=True)
    network.load_state_dict(golden.weights)
    model = compat.ResidualDiffusion(
        network,
        image_size=32,
        objective="auto_res_noise",
        loss_type=case["loss_type"],
        condition=True,
        sum_scale=1,
        convert_to_ddim=True,
    )
    model.alpha_res.data.fill_(case["alpha_res"])
    arguments = given["ground_truth"], given["x_input"], given["time"], None, given["noise"]
    losses = AutoObjective(model, model.alpha_res)(*arguments)
    losses.total.backward()
    gradient = torch.zeros(1) if model.alpha_res.grad is None else model.alpha_res.grad
    ours = {"loss_res": losses.residual, "loss_noise": losses.noise, "total": losses.total, "grad_alpha": gradient}
    for name, value in ours.items():
        # Relative where the recorded number is large: float32 has no 1e-6 beside the squared loss's 20.
        torch.testing.assert_close(value.detach().reshape(1), given[name], rtol=1e-6, atol=1e-6, msg=name)
    decided = {None: -1, Objective.pred_res: 1, Objective.pred_noise: 0}[losses.decided]
    assert decided == int(given["decided"])
    published = model.p_losses([given["ground_truth"], given["x_input"]], given["time"], given["noise"])
    assert [float(loss.detach()) for loss in published] == [float(x.detach()) for x in losses[:2]]


def test_the_gradient_of_lambda_is_the_loss_s_slope() -> None:
    shape = (2, 3, 8, 8)
    f, I_t, I_0, I_in, noise = (torch.randn(shape, dtype=torch.float64) for _ in range(5))
    alpha_bar, beta_bar = (torch.full((2, 1, 1, 1), value, dtype=torch.float64) for value in (0.4, 0.7))

    def loss(w: torch.Tensor) -> torch.Tensor:
        return aosa_loss(f, I_t, I_0, I_in, noise, alpha_bar, beta_bar, w, "l2").total

    assert torch.autograd.gradcheck(loss, [torch.tensor([0.503], dtype=torch.float64, requires_grad=True)])


def test_only_times_with_usable_divisors_are_drawn() -> None:
    """beta_bar_0 of the power schedule is 0, and its 1 - alpha_bar vanishes at the end; DDIM's never do."""
    assert auto().times() == (0, 1000)
    first, end = AutoObjective(small_model("pred_res", schedule=Schedule.power())).times()
    schedule = Schedule.power()
    assert 0 < first < 5 and 950 < end < 1000
    assert schedule.beta_bar[first] >= 1e-3 and 1 - schedule.alpha_bar[end - 1] >= 1e-3
    assert schedule.beta_bar[first - 1] < 1e-3 and 1 - schedule.alpha_bar[end] < 1e-3
    flat = AutoObjective(small_model("pred_res", schedule=Schedule.straight(1000, 0.0)))
    with pytest.raises(ValueError, match="this schedule has no time where both reach"):
        flat.times()


def test_two_networks_have_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="objective auto chooses what one network predicts"):
        AutoObjective(small_model("pred_res_noise"))
    with pytest.raises(ValueError, match="needs a network that sees t"):
        AutoObjective(small_model("pred_res", path_independent=True))


def test_selecting_then_training(tmp_path: Path) -> None:
    run = trainer(tmp_path, FAST, auto())
    seen = []
    run.train(seen.append)
    selecting = [p for p in seen if p.phase == "selecting"]
    training = [p for p in seen if p.phase == "training"]
    assert run.aosa is not None and run.selection is None
    assert 2 < len(selecting) == run.aosa["selected_at"] < 8 and [p.step for p in training] == list(range(1, 9))
    assert all(abs(p.alpha_res - 0.5) < 0.01 for p in selecting[:-1])
    assert abs(selecting[-1].alpha_res - 0.5) >= 0.01 and run.aosa["alpha_res"] == selecting[-1].alpha_res
    found = "pred_res" if run.aosa["alpha_res"] > 0.5 else "pred_noise"

    model = load_model(tmp_path / "model")
    assert model.objective.name == found == run.aosa["decided"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["info"]["aosa"] == run.aosa
    records = read_log(tmp_path / "log.jsonl")
    assert [r["alpha_res"] for r in records if r.get("phase") == "selecting"] == [p.alpha_res for p in selecting]
    assert [r["decided"] for r in records if "decided" in r] == [found]
    assert [r["step"] for r in records if r.get("phase") == "training"][-1] == run.total_step
    plot_log(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("start", "found"), [(0.5105, "pred_res"), (0.4895, "pred_noise")])
def test_after_the_decision_it_is_the_training_of_new_weights(start: float, found: str, tmp_path: Path) -> None:
    """Both decisions hold, that for the noise too, and what follows is what training the objective alone gives."""
    selection = auto()
    selection.alpha_res.data.fill_(start)
    run = trained(tmp_path / "auto", FAST, selection)
    assert run.aosa == {"decided": found, "alpha_res": pytest.approx(start), "selected_at": 0}

    alone = small_model(found, schedule=Schedule.from_ddim(1000), seed=5)
    draw_new_weights(alone, FAST.seed)
    assert not torch.equal(*(next(m.parameters()) for m in (alone, small_model(found, seed=5))))
    assert_same_bits(weights(run), weights(trained(tmp_path / "alone", FAST, alone)))


@pytest.mark.parametrize("cut", [2, 8])
def test_a_cut_selection_goes_on_to_the_same_bits(cut: int, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", FAST, auto())

    seen = []

    def die(progress: object) -> None:
        seen.append(progress)
        if len(seen) == cut:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path / "cut", replace(FAST, save_every=0.0), auto()).train(die)
    again = trainer(tmp_path / "cut", FAST, auto(seed=3))  # its initial weights are replaced by the checkpoint's
    assert again.total_step == cut - 1
    again.train()
    assert again.aosa == whole.aosa
    assert_same_bits(weights(again), weights(whole))
    logs = [
        [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_log(tmp_path / name / "log.jsonl")]
        for name in ("cut", "whole")
    ]
    assert logs[0] == logs[1]


def test_no_decision_is_an_error_that_says_so(tmp_path: Path) -> None:
    settings = TrainSettings(steps=3, batch_size=2, lr=1e-5, lr_schedule="constant", warmup=0, plot=False)
    with pytest.raises(
        Undecided, match=r"after 3 steps lambda is 0\.(50|49)\d\d, within 0.01 of 1/2, so nothing is decided"
    ):
        trained(tmp_path, settings, auto())
    assert not (tmp_path / "model").exists()


def test_the_published_class_has_alpha_res_first_in_its_state() -> None:
    model = published()
    assert next(iter(model.state_dict())) == "alpha_res" and next(iter(model.parameters())) is model.alpha_res
    assert isinstance(model.alpha_res, nn.Parameter) and model.alpha_res.tolist() == [0.5]
    residual, noise = model([images(2, 3, 16, 16, seed=1), images(2, 3, 16, 16, seed=2)])
    (model.alpha_res * residual + (1 - model.alpha_res) * noise).backward()
    assert model.alpha_res.grad is not None and float(model.alpha_res.grad) != 0


def test_sampling_reads_the_network_as_was_decided() -> None:
    x = images(1, 3, 16, 16)
    sampled = {}
    for fixed in (1, 0):
        model = published(alpha_res_to_0_or_1=fixed)
        assert model.alpha_res_to_0_or_1 == fixed and not model.alpha_res.requires_grad
        loaded = published()
        assert loaded.alpha_res_to_0_or_1 is None
        loaded.load_state_dict(model.state_dict())
        assert loaded.alpha_res_to_0_or_1 == fixed
        torch.manual_seed(4)
        sampled[fixed] = loaded.sample([x])[-1]
        plain = published(objective="pred_res" if fixed else "pred_noise")
        plain.model = loaded.model
        torch.manual_seed(4)
        assert torch.equal(plain.sample([x])[-1], sampled[fixed])
    assert not torch.equal(sampled[0], sampled[1])
    with pytest.raises(ValueError, match="alpha_res_to_0_or_1 is 1"):
        published(alpha_res_to_0_or_1=2)
