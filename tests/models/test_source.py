"""Which experiment a source is, read without running it, and what is edited in it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from minimal_sources import BOTH, NOISE, RESIDUAL, STEP, minimal_source, summed

from rddm_fast import compat
from rddm_fast.models.errors import ModelError
from rddm_fast.models.source import diagnosis, from_source
from rddm_fast.theory.experiments import EXPERIMENTS
from rddm_fast.theory.schedule import Schedule

NAMES = [name for name in EXPERIMENTS if name != "ddim-conversion"]
TWO_LOOPS = "".join(STEP.format(mask="", eta="e", step=step) for step in (RESIDUAL, NOISE))


def written(folder: Path, text: str) -> Path:
    path = folder / "source.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_source_of_each_experiment_is_recognised(name: str, tmp_path: Path) -> None:
    found = diagnosis(written(tmp_path, minimal_source(name)))
    assert [str(difference) for difference in found.differences] == []
    assert found.experiment.name == name and found.exact and found.keywords == {"experiment": name}


def test_a_source_in_another_layout_is_the_same(tmp_path: Path) -> None:
    """Other names, line breaks and order of terms; unused branches are still there."""
    text = minimal_source("translation").replace(
        BOTH, "im + s2.sqrt() * z - (\n (res * da) + eps * (v.sqrt() - (w - s2) ** 0.5))"
    )
    for old, new in (("now", "i"), ("then", "j"), ("im", "picture"), ("a_sum", "one"), ("final", "last_beta")):
        text = re.sub(rf"\b{old}\b", new, text)
    found = diagnosis(written(tmp_path, text))
    assert (found.experiment.name, found.exact) == ("translation", True)


EDITS: dict[str, tuple[str, str, str, int, list[str]]] = {
    # experiment, the old text, the new text, how often it is replaced, the sentences ({0}, {1}: lines of the new text)
    "beta_end": (
        "translation",
        "final = 2e-2",
        "final = 3e-2",
        1,
        ["line {0}: the beta schedule ends at 0.03, published 0.02"],
    ),
    "beta_start": (
        "aosa",
        "first = 1e-4",
        "first = 2e-4",
        1,
        ["line {0}: the beta schedule starts at 0.0002, published 0.0001"],
    ),
    "both": (
        "translation",
        "final = 2e-2",
        "final = 3e-2",
        2,
        [
            "line {0}: the beta schedule ends at 0.03, published 0.02",
            "line {1}: in init(), the beta schedule ends at 0.03, published 0.02",
        ],
    ),
    "residual": (
        "translation",
        "- da * res -",
        "- 0.9 * da * res -",
        1,
        ["line {0}: the step takes 0.9 times the published part of the residual"],
    ),
    "noise": (
        "generation",
        ") * eps",
        ") * eps * 1.1",
        1,
        ["line {0}: the step takes 1.1 times the published part of the noise"],
    ),
    "sigma": (
        "generation",
        "s2.sqrt() * z",
        "2 * s2.sqrt() * z",
        1,
        ["line {0}: the step takes 2 times the published part of the random image"],
    ),
    "delta": (
        "diffuir",
        "then]) * x_input",
        "then]) * 2 * x_input",
        1,
        ["line {0}: the step takes 2 times the published part of the degraded image"],
    ),
    "eta": ("translation", "e = 0", "e = 0.5", 1, ["line {0}: eta is 0.5 in ddim_sample(), published 0"]),
    "ratio of init()": (
        "generation",
        "ratio=2",
        "ratio=5",
        1,
        ["line {0}: in init(), the ratio of alpha is 5, published 2"],
    ),
    "type": (
        "restoration",
        '"use_pred_noise"\n',
        '"special_eta_0"\n',
        1,
        ["line {0}: the step is of type 'special_eta_0', published 'use_pred_noise'"],
    ),
    "delta_end": (
        "diffuir",
        "delta_end=1.5e-3",
        "delta_end=1.6e-3",
        1,
        [f"line {{0}}: {where}delta ends at 0.0016, published 0.0015" for where in ("", "in init(), ")],
    ),
    "sum_scale": (
        "inpainting",
        "else 0.01",
        "else 0.05",
        1,
        ["line {0}: sum_scale is 0.05 if none is passed to restore, published 0.01"],
    ),
    "optimiser": (
        "restoration",
        "self.opt = Adam(",
        "self.opt = AdamW(",
        1,
        ["line {0}: AdamW trains two networks, published Adam"],
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_coefficient_is_named_with_its_line(edit: str, tmp_path: Path) -> None:
    name, old, new, count, sentences = EDITS[edit]
    text = minimal_source(name)
    assert text.count(old) >= count
    path = written(tmp_path, text.replace(old, new, count))
    found = diagnosis(path)
    lines = [i for i, line in enumerate(path.read_text().splitlines(), 1) if new.strip() in line]
    said = [str(difference) for difference in found.differences]
    assert (found.experiment.name, found.exact) == (name, False)
    if edit == "optimiser":
        said = [sentence for sentence in said if "two networks" in sentence]
    if edit == "type":
        said = said[:1]
    assert said == [sentence.format(*lines) for sentence in sentences]


def test_the_time_the_loop_and_the_call_of_init_are_named(tmp_path: Path) -> None:
    for changed, sentence in (
        ({"time": "[t, t]"}, "the networks see t as their time, published alpha_bar_t T and beta_bar_t T"),
        ({"loops": TWO_LOOPS}, "ddim_sample() walks its times twice, published once"),
        ({"test": "pass"}, "test() does not call init(), the published one does"),
        ({"loop_eta": "pass"}, "eta is the constructor's in ddim_sample(), published 0"),
        ({"generation": "share_encoder"}, "UnetRes takes share_encoder, published num_unet"),
    ):
        found = diagnosis(written(tmp_path, minimal_source("translation", **changed)))
        assert found.experiment.name == "translation"
        assert [difference.what for difference in found.differences] == [sentence]


@pytest.mark.parametrize(
    ("name", "old", "new", "what"),
    [
        (
            "translation",
            "im = torch.randn(shape",
            "im = sharpen(torch.randn(1)) + torch.randn(shape",
            "sharpen() is not known",
        ),
        ("translation", "+ noisy", "+ 2 * noisy", "q_sample() makes another I_t than the published code"),
        (
            "aosa",
            "min=-1.0",
            "min=-2.0",
            "the residual of objective pred_res_noise, res_noise is not the published one",
        ),
        ("generation", "c3 * found", "2 * c3 * found", "p_sample() draws from another posterior than published"),
        ("restoration", "return mean +", "while mean: pass\n        return mean +", "while mean: is not known"),
        (
            "inpainting",
            "self.model(seen, [self.alphas_cumsum[t] *",
            "self.model(seen, [2 * self.alphas_cumsum[t] *",
            "the networks' time is neither t nor alpha_bar_t T and beta_bar_t T",
        ),
    ],
)
def test_what_is_not_known_is_said(name: str, old: str, new: str, what: str, tmp_path: Path) -> None:
    text = minimal_source(name)
    assert old in text
    found = diagnosis(written(tmp_path, text.replace(old, new)))
    said = {difference.what: difference.line for difference in found.differences}
    assert said.get(what, 0) > 0, said
    assert found.keywords is None
    with pytest.raises(ModelError, match="no keyword of ResidualDiffusion expresses this edit: line"):
        from_source(tmp_path / "source.py")


# -- the keywords ---------------------------------------------------------------------------------------------


def built(name: str, keywords: dict[str, Any]) -> compat.ResidualDiffusion:
    row = EXPERIMENTS[name]
    networks: dict[str, Any] = (
        {"num_unet": 2 if row.objective == "pred_res_noise" else 1} if row.num_unet else {"share_encoder": 0}
    )
    if row.num_unet:
        networks["objective"] = row.objective
    unet = compat.UnetRes(8, dim_mults=(1, 2), condition=row.condition, **networks)
    mode: dict[str, Any] = (
        {"test_res_or_noise": "res_noise"} if row.num_unet and row.objective == "pred_res_noise" else {}
    )
    return compat.ResidualDiffusion(
        unet,
        image_size=16,
        sampling_timesteps=3,
        objective=row.objective,
        condition=row.condition,
        sum_scale=1.0,
        **mode,
        **keywords,
    )


def test_a_known_source_s_keyword_builds_its_model(tmp_path: Path) -> None:
    diffusion = built("translation", from_source(written(tmp_path, minimal_source("translation"))))
    np.testing.assert_array_equal(diffusion.schedule.alpha_bar, Schedule.from_ddim(1000).alpha_bar)
    assert diffusion.path_independent and diffusion.eta == 0


def test_an_edited_schedule_is_built_as_the_source_makes_it(tmp_path: Path) -> None:
    path = written(tmp_path, minimal_source("translation").replace("final = 2e-2", "final = 3e-2", 1))
    keywords = from_source(path)
    assert keywords["experiment"] == "translation"
    kept = np.cumprod(1 - np.linspace(1e-4, 3e-2, 1000))
    diffusion = built("translation", keywords)
    np.testing.assert_allclose(diffusion.schedule.alpha_bar, 1 - np.sqrt(kept), atol=1e-5)
    np.testing.assert_allclose(diffusion.get_buffer("betas2_cumsum"), 1 - kept, atol=1e-5)
    assert diffusion.path_independent


def test_a_ratio_is_a_schedule_of_powers(tmp_path: Path) -> None:
    keywords = from_source(written(tmp_path, minimal_source("generation", schedule=summed(beta2_ratio="3"))))
    assert set(keywords) == {"experiment", "schedule"}
    expected = Schedule.power(1000, 1.0, ("decreased", 1.0), ("increased", 3.0))
    diffusion = built("generation", keywords)
    assert diffusion.schedule.recipe == expected.recipe
    torch.testing.assert_close(diffusion.get_buffer("betas_cumsum"), expected.buffers()["betas_cumsum"])
    assert from_source(tmp_path / "source.py", timesteps=50, sum_scale=0.5)["schedule"].recipe["timesteps"] == 50


def test_other_edits_are_said_without_an_experiment(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        ("translation", {"time": "[t, t]"}, {"path_independent": False, "convert_to_ddim": True}),
        (
            "translation",
            {"loops": TWO_LOOPS},
            {"path_independent": True, "official_two_pass": True, "convert_to_ddim": True},
        ),
        ("translation", {"test": "pass"}, {"experiment": "translation"}),
        ("generation", {"loop_eta": "e = 0.25"}, {"experiment": "generation", "ddim_sampling_eta": 0.25}),
    ]
    for name, changed, expected in cases:
        assert from_source(written(tmp_path, minimal_source(name, **changed))) == expected
        built(name, expected)


def test_delta_end_is_diffuir_s_keyword(tmp_path: Path) -> None:
    text = minimal_source("diffuir").replace("delta_end=1.5e-3", "delta_end=1.6e-3")
    keywords = from_source(written(tmp_path, text))
    assert keywords == {"experiment": "diffuir", "delta_end": 0.0016}
    delta_bar = built("diffuir", keywords).schedule.delta_bar
    assert delta_bar is not None
    np.testing.assert_allclose(delta_bar, np.linspace(1e-6, 1.6e-3, 1000).cumsum(), atol=1e-9)


def test_no_keyword_says_the_schedule_of_an_edited_init(tmp_path: Path) -> None:
    text = minimal_source("translation")
    first, last = text.rsplit("final = 2e-2", 1)
    path = written(tmp_path, f"{first}final = 4e-2{last}")
    with pytest.raises(ModelError, match="test\\(\\) samples with another schedule than the model is trained with"):
        from_source(path)


# -- files that are no such source ----------------------------------------------------------------------------


def test_files_of_another_kind_are_one_sentence_each(tmp_path: Path) -> None:
    for text, sentence in (
        ("this is not Python (", "is not Python source"),
        ("x = 1\n", "has no class ResidualDiffusion"),
        ("class ResidualDiffusion:\n    pass\n", "the source has no method __init__"),
        (
            minimal_source("aosa").replace("kept = torch", "kept = mystery(b) + torch"),
            "line \\d+: mystery\\(\\) is not known",
        ),
        (
            minimal_source("aosa").replace("kept = torch", "kept = torch.ones(1000000000000) + torch"),
            "more than 100000 entries",
        ),
    ):
        with pytest.raises(ModelError, match=sentence) as error:
            diagnosis(written(tmp_path, text))
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="there is no file"):
        diagnosis(tmp_path / "absent.py")


def test_a_source_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    text = minimal_source("translation") + f"\nopen({str(trap)!r}, 'w')\n"
    text = text.replace("steps = timesteps\n", f"steps = timesteps\n        open({str(trap)!r}, 'w')\n")
    text = text.replace("steps = timesteps\n", "steps = timesteps\n        __import__('os').system('true')\n")
    assert diagnosis(written(tmp_path, text)).exact
    assert not trap.exists()


def test_the_scheduler_of_folder_1_is_recognised(tmp_path: Path) -> None:
    path = written(tmp_path, "class Scheduler:\n    def set_config_res(self, **options):\n        pass\n")
    found = diagnosis(path)
    assert found.experiment.name == "ddim-conversion" and found.keywords is None
    assert not found.exact and not found.compared
    with pytest.raises(ModelError, match="run rddm-fast ddim FOLDER"):
        from_source(path)
