"""The names of published folder 2, image restoration, for the import line of its scripts."""

from ..theory.experiments import EXPERIMENTS
from . import diffusion, networks
from .gaussian import GaussianDiffusion
from .networks import Unet, set_seed
from .trainers import trainer

__all__ = ["GaussianDiffusion", "ResidualDiffusion", "Trainer", "Unet", "UnetRes", "set_seed"]


class UnetRes(networks.UnetRes):
    published = EXPERIMENTS["restoration"]


class ResidualDiffusion(diffusion.ResidualDiffusion):
    published = EXPERIMENTS["restoration"]


class Trainer(trainer.Trainer):
    published = EXPERIMENTS["restoration"]
