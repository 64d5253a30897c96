"""Minimal sources with the constructs that tell the published experiments apart, in words and an order of their own.

`minimal_source("translation")` is one of folder 5's kind. Each holds traps in comments: a second loop, a call of
init(), another schedule.
"""

from __future__ import annotations

COEFFICIENTS = {
    "power": """
def gen_coefficients(timesteps, schedule="increased", sum_scale=1, ratio=1):
    if schedule == "average":
        return torch.full([timesteps], 1 / timesteps) * sum_scale
    w = torch.from_numpy(np.linspace(0, 1, timesteps, dtype=np.float32) ** ratio)
    w = torch.flip(w, dims=[0]) if schedule == "decreased" else w
    return w / w.sum() * sum_scale
""",
    "triangular": """
def gen_coefficients(timesteps, schedule="increased", sum_scale=1):
    ramp = torch.linspace(1, timesteps, timesteps, dtype=torch.float64)
    if schedule == "decreased":
        ramp = ramp.flip(0)
    return sum_scale * (2 * ramp / (timesteps * (timesteps + 1)))
""",
}

DDIM = """
        kind, first, final = "linear", 1e-4, 2e-2
        kind = "linear"
        first = 1e-4
        final = 2e-2
        # final = 0.5
        if kind == "linear":
            b = torch.linspace(first, final, steps, dtype=torch.float32)
        elif kind == "scaled_linear":
            b = torch.linspace(first ** 0.5, final ** 0.5, steps, dtype=torch.float32) ** 2
        kept = torch.cumprod(1.0 - b, dim=0)
        a_sum, v_sum = 1 - kept ** 0.5, 1 - kept
        a_before = F.pad(a_sum[:-1], (1, 0), value=1.0)
        v_before = F.pad(v_sum[:-1], (1, 0), value=1.0)
        a = a_sum - a_before
        v = v_sum - v_before
        a[0] = {a_first}
        v[0] = {v_first}
"""

SUMMED = """
        a = gen_coefficients(steps, schedule="{alpha}"{alpha_ratio})
        v = gen_coefficients(steps, schedule="{beta2}", sum_scale=self.sum_scale{beta2_ratio})
        a_sum = a.cumsum(dim=0).clip(0, 1)
        v_sum = v.cumsum(dim=0).clip(0, 1)
        a_before = F.pad(a_sum[:-1], (1, 0), value=1.0)
        v_before = F.pad(v_sum[:-1], (1, 0), value=1.0)
"""

BUFFERS = """
        spread = v * v_before / v_sum
        spread[0] = 0
        for name, table in [
            ("alphas", a), ("alphas_cumsum", a_sum), ("one_minus_alphas_cumsum", 1 - a_sum), ("betas2", v),
            ("betas", torch.sqrt(v)), ("betas2_cumsum", v_sum), ("betas_cumsum", torch.sqrt(v_sum)),
            ("posterior_mean_coef1", v_before / v_sum),
            ("posterior_mean_coef2", (v * a_before - v_before * a) / v_sum),
            ("posterior_mean_coef3", v / v_sum), ("posterior_variance", spread),
            ("posterior_log_variance_clipped", torch.log(spread.clamp(min=1e-20))),
        ]:
            self.register_buffer(name, table.to(torch.float32))
        self.posterior_mean_coef1[0] = 0
        self.posterior_mean_coef2[0] = 0
        self.posterior_mean_coef3[0] = 1
        self.one_minus_alphas_cumsum[-1] = 1e-6
        self.num_timesteps = steps
"""

DELTA = """
        d = torch.linspace(1e-6, self.delta_end, steps, dtype=torch.float32)
        self.register_buffer("delta", d)
        self.register_buffer("delta_cumsum", d.cumsum(dim=0).clip(0, 1))
"""

STEP = """
        for now, then in tqdm(pairs):
            found = self.model_predictions(x_input, im, torch.full((shape[0],), now, dtype=torch.long){mask})
            res, eps, x_start = found.pred_res, found.pred_noise, found.pred_x_start
            if then < 0:
                im = x_start
                if not last:
                    all_images.append(im)
                continue
            da = self.alphas_cumsum[now] - self.alphas_cumsum[then]
            v, w = self.betas2_cumsum[now], self.betas2_cumsum[then]
            s2 = {eta} * (v - w) * w / v
            z = torch.randn_like(im) if {eta} != 0 else 0
            if type == "use_pred_noise":
                im = {step}
            elif type == "special_eta_0":
                im = im - da * res - (v.sqrt() - w.sqrt()) * eps
            if not last:
                all_images.append(im)
"""

BOTH = "s2.sqrt() * z + im - da * res - (v.sqrt() - (w - s2).sqrt()) * eps"
RESIDUAL = "im - da * res + s2.sqrt() * z"
NOISE = "im - (v.sqrt() - (w - s2).sqrt()) * eps + s2.sqrt() * z"
WITH_DELTA = "im - da * res + (self.delta_cumsum[now] - self.delta_cumsum[then]) * x_input + s2.sqrt() * z"

SOURCE = """import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
raise SystemExit("a source that is run by mistake ends here")

Predicted = namedtuple("Predicted", ["pred_res", "pred_noise", "pred_x_start"])
{coefficients}

class UnetRes(nn.Module):
    def __init__(self, dim, {generation}=1):
        super().__init__()


class ResidualDiffusion(nn.Module):
    def __init__(self, model, *, image_size, timesteps=1000, sampling_timesteps=None, objective="pred_res_noise",
                 ddim_sampling_eta=0.0, condition=False, sum_scale=None, test_res_or_noise="None"{arguments}):
        super().__init__()
        assert model.channels == model.out_dim
        self.model = model
        self.objective, self.test_res_or_noise = objective, test_res_or_noise
        self.condition = condition
        {keep}
        if condition:
            self.sum_scale = sum_scale if sum_scale else 0.01
            {restoring_eta}
        else:
            self.sum_scale = sum_scale or 1.0
        steps = timesteps
        # convert_to_ddim = {other_way}
        convert_to_ddim = {way}
{schedule}{delta}{buffers}
        self.sampling_timesteps = default(sampling_timesteps, timesteps)
        self.is_ddim_sampling = self.sampling_timesteps < timesteps
        self.ddim_sampling_eta = ddim_sampling_eta
{alpha_res}
{init}
    def model_predictions(self, x_input, x, t, x_input_condition=0, x_self_cond=None, clip_denoised=True):
        seen = torch.cat((x, x_input), dim=1) if self.condition else x
        out = self.model(seen, {time}, x_self_cond)
        clip = partial(torch.clamp, min=-1.0, max=1.0) if clip_denoised else identity
        a, b = extract(self.alphas_cumsum, t, x.shape), extract(self.betas_cumsum, t, x.shape)
        single = extract(self.one_minus_alphas_cumsum, t, x.shape)
        if self.objective == "pred_res_noise" and self.test_res_or_noise in ("res_noise", "None"):
            res = clip(out[0])
            eps = out[1]
            clean = clip(x - b * eps - a * res)
        elif self.objective == "pred_res":
            res = clip(out[0])
            eps = (x - {kept_input} - (a - 1) * res) / b
            clean = clip(x_input - res)
        elif self.objective == "pred_noise":
            eps = out[0]
            clean = clip((x - a * x_input - b * eps) / single)
            res = clip(x_input - clean)
{automatic}
        return Predicted(res, eps, clean)

    # def ddim_sample(self, x_input, shape, last=True):
    #     for now, then in pairs:
    #         pass
    #     for now, then in pairs:
    #         pass

    def p_sample(self, x_input, im, t: int, *rest):
        index = torch.full((1,), t, dtype=torch.long)
        found = self.model_predictions(x_input, im, index)
        c1, c2, c3 = (
            extract(self.posterior_mean_coef1, index, im.shape), extract(self.posterior_mean_coef2, index, im.shape),
            extract(self.posterior_mean_coef3, index, im.shape))
        mean = c3 * found.pred_x_start + c2 * found.pred_res + c1 * im
        z = torch.randn_like(im) if t > 0 else 0.0
        return mean + (0.5 * extract(self.posterior_log_variance_clipped, index, im.shape)).exp() * z

    def p_sample_loop(self, x_input, shape, last=True):
        x_input = x_input[0]
        im = torch.randn(shape, device=self.betas.device)
        if self.condition:
            im = x_input + math.sqrt(self.sum_scale) * im
        first, all_images = im, []
        for t in reversed(range(self.num_timesteps)):
            im = self.p_sample(x_input, im, t)
            if not last:
                all_images.append(im)
        if not self.condition:
            return all_images
        return [first] + all_images

    @torch.no_grad()
    def ddim_sample(self, x_input, shape, last=True):
        x_input = x_input[0]
        e = self.ddim_sampling_eta
        times = torch.linspace(-1, self.num_timesteps - 1, steps=self.sampling_timesteps + 1)
        times = list(reversed(times.int().tolist()))
        pairs = list(zip(times[:-1], times[1:]))
        im = torch.randn(shape, device=self.betas.device)
        if self.condition:
            im = {start}x_input + math.sqrt(self.sum_scale) * im
        first, all_images = im, []
        type = "use_pred_noise"
        # type = "use_x_start"
        {loop_eta}
{loops}
        return [first] + all_images if self.condition else all_images

    def q_sample(self, x_start, x_res, {q_argument}t, noise=None):
        noise = default(noise, lambda: torch.randn_like(x_start))
        noisy = extract(self.betas_cumsum, t, x_start.shape) * noise
        return x_start + extract(self.alphas_cumsum, t, x_start.shape) * x_res + noisy{q_delta}


class Trainer(object):
    def __init__(self, diffusion_model, folder, num_unet=2):
        # self.opt0 = SGD(diffusion_model.parameters())
{optimisers}

    def test(self, sample=False, last=True):
        # self.ema.ema_model.init()
        {test}
"""


def summed(alpha: str = "decreased", beta2: str = "increased", alpha_ratio: str = "", beta2_ratio: str = "") -> str:
    """The lines that make a schedule by gen_coefficients."""
    words = {
        "alpha_ratio": alpha_ratio and f", ratio={alpha_ratio}",
        "beta2_ratio": beta2_ratio and f", ratio={beta2_ratio}",
    }
    return SUMMED.format(alpha=alpha, beta2=beta2, **words)


def minimal_source(name: str, **changed: str) -> str:
    """The source of an experiment by its name; `changed` replaces entries of the template."""
    train, rebuilt = DDIM.format(a_first="0", v_first="0"), DDIM.format(a_first="a[1]", v_first="v[1]")
    ways = {"restoration": summed(), "inpainting": summed(), "generation": summed()}
    inits = {"restoration": None, "generation": summed("decreased", "average", "2", "1")}
    init = inits.get(name, rebuilt)
    coefficients_as_times = "[self.alphas_cumsum[t] * self.num_timesteps, self.betas_cumsum[t] * self.num_timesteps]"
    times = {"restoration": "t", "aosa": "[t, t]", "generation": "[t, t]"}
    delta = DELTA if name == "diffuir" else ""
    eta_is_0 = name in ("aosa", "inpainting", "translation")
    steps = {"path-independent": (RESIDUAL, NOISE), "diffuir": (WITH_DELTA,)}.get(name, (BOTH,))
    one = "self.opt0 = RAdam(diffusion_model.parameters())"
    if name in ("aosa", "diffuir"):
        one = "self.opt0 = Adam(diffusion_model.parameters())"
    by_number = (
        f"        if num_unet == 1:\n            {one}\n        elif num_unet == 2:\n"
        "            self.opt0 = RAdam(diffusion_model.model.unet0.parameters())\n"
        "            self.opt1 = RAdam(diffusion_model.model.unet1.parameters())"
    )
    single = {"restoration": "        self.opt = Adam(diffusion_model.parameters())", "diffuir": f"        {one}"}
    automatic = (
        '        elif self.objective == "auto_res_noise" and self.alpha_res > 0.5:\n'
        "            res = clip(out[0])\n            eps = (x - x_input - (a - 1) * res) / b\n"
        "            clean = clip(x_input - res)\n"
        '        elif self.objective == "auto_res_noise":\n'
        "            eps = out[0]\n            clean = clip((x - a * x_input - b * eps) / single)\n"
        "            res = clip(x_input - clean)"
    )
    words = {
        "coefficients": COEFFICIENTS["triangular" if name == "restoration" else "power"],
        "generation": "share_encoder" if name == "restoration" else "num_unet",
        "arguments": {"diffuir": ", delta_end=1.5e-3"}.get(
            name, ", img_to_img_translation=False" if name[:2] in ("in", "tr") else ""
        ),
        "keep": "self.delta_end = delta_end" if delta else "pass",
        "restoring_eta": "pass" if delta else "ddim_sampling_eta = 0.0",
        "way": str(name not in ways),
        "other_way": str(name in ways),
        "schedule": ways.get(name, train),
        "delta": delta,
        "buffers": BUFFERS,
        "alpha_res": (
            '        if objective == "auto_res_noise":\n'
            "            self.alpha_res = torch.nn.Parameter(0.5 * torch.ones((1)), requires_grad=True)"
            if name == "aosa"
            else ""
        ),
        "init": "" if init is None else f"    def init(self):\n        steps = 1000\n{init}{delta}{BUFFERS}",
        "time": times.get(name, coefficients_as_times),
        "kept_input": "(1 - self.delta_cumsum[t]) * x_input" if delta else "x_input",
        "automatic": automatic if name == "aosa" else "",
        "start": "(1 - self.delta_cumsum[-1]) * " if delta else "",
        "loop_eta": "e = 0" if eta_is_0 else "pass",
        "loops": "".join(STEP.format(mask="", eta="e", step=step) for step in steps),
        "q_argument": "x_in, " if delta else "",
        "q_delta": " - extract(self.delta_cumsum, t, x_start.shape) * x_in" if delta else "",
        "optimisers": single.get(name, by_number),
        "test": "self.ema.ema_model.init()"
        if name in ("path-independent", "aosa", "translation", "diffuir")
        else "pass",
    }
    return SOURCE.format(**{**words, **changed})
