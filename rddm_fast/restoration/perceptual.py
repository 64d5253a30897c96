"""Metrics by trained networks: LPIPS, FID and the Inception Score from the user's TorchScript files; pyiqa's.

For the first three nothing is downloaded and no package of networks is needed: a TorchScript file (`torch.jit.save`)
holds the network and its weights. The networks are called as follows, on images of the original size.

- LPIPS (Zhang et al., 2018): f(pred, target), float32 (1, 3, H, W) in [-1, 1], returns one number.
  `torch.jit.trace(lpips.LPIPS(net="alex").eval(), (x, x)).save("lpips.pt")` makes such a file.
- FID (Heusel et al., 2017): f(images, return_features=True) where it takes that argument, else f(images); uint8
  (1, 3, H, W), returns (1, D) features.
- Inception Score (Salimans et al., 2016): f(images, no_output_bias=True) where it takes that argument, else f(images);
  uint8 (1, 3, H, W), returns (1, classes) probabilities.

`inception-2015-12-05.pt`, published with StyleGAN2-ADA, serves for FID and the Inception Score.
"""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from ..system.errors import one_line
from ..system.extras import require
from ..system.memory import out_of_memory


class Scripted:
    """The network of a TorchScript file, on a device.

    Args:
        path: the file.
        device: where to compute.
        flag: a bool argument that is passed as True if the network takes it.

    Raises:
        ValueError: the file is missing or is not TorchScript.
    """

    def __init__(self, path: str | PathLike[str], *, flag: str | None = None, device: torch.device | str = "cpu"):
        self.path, self.device = Path(path), torch.device(device)
        if not self.path.is_file():
            raise ValueError(f"{path} does not exist: name a TorchScript file of the network")
        try:
            self.network = torch.jit.load(self.path, map_location=self.device).eval()
        except RuntimeError:
            raise ValueError(f"{path} is not a TorchScript file: save the network with torch.jit.save") from None
        takes = {argument.name for argument in self.network.forward.schema.arguments}
        self.flags = {flag: True} if flag is not None and flag in takes else {}

    @torch.no_grad()
    def __call__(self, *images: Tensor) -> Tensor:
        """Return the network's output for batches of images, on the CPU.

        Raises:
            ValueError: the network failed; the message names the file.
        """
        try:
            output = self.network(*(image.to(self.device) for image in images), **self.flags)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{self.path} cannot take images {tuple(images[0].shape)}: {reason}") from error
        if not isinstance(output, Tensor):
            raise ValueError(f"{self.path} returned {type(output).__name__}, where one tensor is expected")
        return output.float().cpu()


class Lpips(Scripted):
    """Learned perceptual distance of images (3, H, W) in [0, 1]."""

    def distance(self, pred: Tensor, target: Tensor) -> float:
        output = self(pred[None].float() * 2 - 1, target[None].float() * 2 - 1)
        if output.numel() != 1:
            raise ValueError(f"{self.path} returned {tuple(output.shape)}, where LPIPS returns one number")
        return output.item()


class Inception(Scripted):
    """Features or probabilities (one row) of an image (3, H, W) in [0, 1]."""

    def row(self, image: Tensor) -> Tensor:
        output = self((image[None] * 255).round().clamp(0, 255).to(torch.uint8))
        if output.dim() != 2 or len(output) != 1:
            raise ValueError(f"{self.path} returned {tuple(output.shape)}, where (1, features) is expected")
        return output[0]


class Pyiqa:
    """A metric of the package pyiqa, by its name there, such as niqe or dists, of images (3, H, W) in [0, 1].

    pyiqa fetches a metric's weights when it first makes it.

    Attributes:
        name: the metric's name.
        lower_better: whether less is better.

    Raises:
        ImportError: pyiqa is not installed. No extra of ours installs it, because it brings torchvision, whose wheels
            ask for one torch.
        ValueError: pyiqa cannot make this metric.
    """

    def __init__(self, name: str, *, device: torch.device | str = "cpu") -> None:
        try:
            import pyiqa
        except ModuleNotFoundError as error:
            if error.name != "pyiqa":
                raise
            raise ImportError("pyiqa is not installed; pip install pyiqa installs it", name="pyiqa") from error
        self.name, self.device = name, torch.device(device)
        try:
            self.metric = pyiqa.create_metric(name, device=self.device)
        except Exception as error:  # of many packages of networks
            raise ValueError(f"pyiqa makes no metric {name!r}: {one_line(error)}") from error
        self.lower_better = bool(self.metric.lower_better)

    @torch.no_grad()
    def measure(self, pred: Tensor, target: Tensor) -> float:
        """Return the metric: of both images if it compares them (its mode is FR), else of `pred` alone.

        Raises:
            ValueError: it cannot measure these images.
        """
        images = (pred, target) if self.metric.metric_mode == "FR" else (pred,)
        try:
            value = self.metric(*(image[None].float().clamp(0, 1).to(self.device) for image in images))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            if out_of_memory(error):
                raise
            size = f"{pred.shape[2]}x{pred.shape[1]}"
            raise ValueError(f"{self.name} of pyiqa cannot measure images of {size}: {one_line(error)}") from error
        return float(value)


class _Given(nn.Identity):
    """Stands for torchmetrics' feature extractor when the features are already computed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """FID (Heusel et al., 2017) of two sets of features (N, D). Raises ValueError for fewer than two images."""
    if min(len(real), len(generated)) < 2:
        raise ValueError("FID is a distance of distributions: it needs at least two images")
    metric = require("torchmetrics.image.fid", "metrics").FrechetInceptionDistance(
        feature=_Given(real.shape[1]), sync_on_compute=False
    )
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return float(metric.compute())


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception Score of class probabilities (N, classes): mean and standard deviation over `splits` random parts.

    The parts are drawn from a fixed seed. For a single image the deviation is NaN.
    """
    module = require("torchmetrics.image.inception", "metrics")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `InceptionScore` will save all extracted features")
        warnings.filterwarnings("ignore", "std\\(\\): degrees of freedom")
        torch.manual_seed(0)
        metric = module.InceptionScore(feature=nn.Identity(), splits=splits, sync_on_compute=False)
        # torchmetrics expects logits. The logarithm of the probabilities serves, because its softmax returns them.
        metric.update(probabilities.double().clamp(min=1e-300).log())
        mean, deviation = metric.compute()
    return float(mean), float(deviation)
