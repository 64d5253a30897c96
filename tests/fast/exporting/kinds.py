"""The kinds of models that every export is held against its sampler with."""

import pytest

from rddm_fast.theory.schedule import Schedule

every_kind_of_model = pytest.mark.parametrize(
    "options",
    [
        {"objective": "pred_res_noise", "eta": 0.5},
        {"objective": "pred_res_add_noise", "networks": "shared"},
        {"objective": "pred_x0_noise", "input_condition": True, "input_condition_mask": True},
        {"objective": "pred_noise", "self_condition": True},
        {"objective": "pred_x0", "img_to_img_translation": True},
        {"objective": "pred_res_noise", "path_independent": True, "test_res_or_noise": "res"},
        {"objective": "pred_noise", "condition": False, "eta": 1.0},
        {"objective": "pred_res_noise", "condition": False, "official_two_pass": True},
        {"objective": "pred_res", "schedule": Schedule.diffuir(), "padding_factor": 8, "eta": 0.3},
    ],
    ids=lambda options: "-".join(name for name in map(str, options.values()) if "(" not in name),
)
