"""Linear degradations, one file per kind; `named` makes one from the command line's form, `check` tests any."""

from ..check import check
from .adapter import from_deepinv
from .arguments import random_mask
from .blocks import OldPhotograph, SuperResolution
from .compose import Composition
from .fourier import FourierBlur
from .function import Function
from .general import General
from .named import listing, named
from .pixelwise import Colourisation, Denoising, Inpainting
from .sensing import BlockSensing, WalshHadamard
from .separable import AnisotropicBlur, Bicubic, GaussianBlur, PublishedBlur, Separable, SeparableBlur, UniformBlur

__all__ = [
    "AnisotropicBlur",
    "Bicubic",
    "BlockSensing",
    "Colourisation",
    "Composition",
    "Denoising",
    "FourierBlur",
    "Function",
    "GaussianBlur",
    "General",
    "Inpainting",
    "OldPhotograph",
    "PublishedBlur",
    "Separable",
    "SeparableBlur",
    "SuperResolution",
    "UniformBlur",
    "WalshHadamard",
    "check",
    "from_deepinv",
    "listing",
    "named",
    "random_mask",
]
