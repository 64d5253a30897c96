"""Data sets to train on: pairs of image files, and photographs that are degraded when an item is read.

Both return dictionaries of float32 tensors (C, H, W) with values in [0, 1]: `target`, `input`, `mask` if there is one,
and `name`. Both are deterministic: item `index` depends only on the arguments of the data set, not on the order of
reading, the number of workers or the items read before. To train, let `length` be the items of the whole training
(steps times batch) and read them in order; to resume, start at item `steps_done * batch`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .degradations.degraded import to_array, to_tensor
from .degrade import KINDS, FloatImage, degrade
from .given.learnt import as_learnt
from .pairs import DataError, Pair
from .picture import ImageError, read_image, sides

Item = dict[str, Any]
CONTEXT = 32
"""Half of the longest streak of rain, and more than a letter, a stroke's bend or a block of JPEG."""
OF_WHOLE = ("wide-lowlight",)
"""The kinds that take the whole photograph as context: how dark a picture is, a part does not tell."""


class PairedImages(Dataset[Item]):
    """Pairs of images from files.

    An item holds `input`, `target` if the pair has one, `mask` (1, H, W) if the pair has one, all float32 in [0, 1],
    and `name`. Alpha is dropped.

    Args:
        pairs: what `rddm_fast.images.pairs.find_pairs` returned.
        patch: side in pixels of random square patches, cut at the same place of input, target and mask. Smaller images
            are extended by reflection at the right and the bottom. None keeps whole images.
        flip: probability that an item is mirrored left to right; None means 0.5 with patches and 0 for whole images
            (the published code mirrors every item by mistake).
        length: number of items. Item i belongs to pass i // len(pairs); each pass has its own random order. None takes
            each pair once, in the order given.
        grey: read images as one channel (1, H, W), the mean of the colours, instead of (3, H, W).
        one_size: the images of a pair must have one size; False for unpaired images, which are resized afterwards.
        seed: seed of all random choices, not negative.

    Raises:
        ValueError: no pairs, or an argument out of range.
        DataError: on indexing, if the images of a pair differ in size.
        ImageError: on indexing, if an image cannot be read; names the list and line that named it.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        patch: int | None = None,
        flip: float | None = None,
        length: int | None = None,
        grey: bool = False,
        one_size: bool = True,
        seed: int = 0,
    ) -> None:
        if not pairs:
            raise ValueError("no pairs given")
        if flip is None:
            flip = 0.0 if patch is None else 0.5
        counts_valid = (patch is None or patch >= 1) and (length is None or length >= 0) and seed >= 0
        if not counts_valid or not 0 <= flip <= 1:
            raise ValueError(
                f"patch must be at least 1, flip in [0, 1], length and seed at least 0, "
                f"got patch {patch}, flip {flip:g}, length {length}, seed {seed}"
            )
        self.pairs = list(pairs)
        self.patch = patch
        self.flip = flip
        self.shuffled = length is not None
        self.length = len(self.pairs) if length is None else length
        self.grey, self.one_size = grey, one_size
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is out of range for {self.length} items")
        pair = self.pairs[self._pair_of(index)]
        images = self._read(pair)
        rng = np.random.default_rng((self.seed, index))  # one generator per item: any order, any worker
        if self.patch is not None:
            images = _crop(images, self.patch, rng)
        if rng.random() < self.flip:
            images = {key: image.flip(2) for key, image in images.items()}
        return {**{key: image.contiguous() for key, image in images.items()}, "name": pair.name}

    def _pair_of(self, index: int) -> int:
        if not self.shuffled:
            return index
        passes, place = divmod(index, len(self.pairs))
        order = np.random.default_rng((self.seed, passes, 1)).permutation(len(self.pairs))
        return int(order[place])

    def _read(self, pair: Pair) -> dict[str, Tensor]:
        paths = {"input": pair.input, "target": pair.target, "mask": pair.mask}
        images: dict[str, Tensor] = {}
        for key, path in paths.items():
            if path is None:
                continue
            try:
                pixels = read_image(path).pixels
            except ImageError as error:
                if not pair.origin:
                    raise
                raise ImageError(f"{error} (named in {pair.origin})") from error
            if self.one_size and images and pixels.shape[1:] != images["input"].shape[1:]:
                raise DataError(f"{pair.input} is {sides(images['input'])} but its {key} {path} is {sides(pixels)}")
            images[key] = pixels
        one_channel = {"input", "target", "mask"} if self.grey else {"mask"}
        for key in one_channel & images.keys():
            images[key] = images[key].mean(0, keepdim=True)
        return images


class PhotoPatches(Dataset[Item]):
    """Random patches of photographs, degraded when they are read.

    An item holds `target`, float32 (3, patch, patch), and `name`, the photograph's file name; with a degradation also
    `input`, of the target's shape, and, for the kinds that have one, `mask`, float32 (1, patch, patch). The probability
    of a photograph is proportional to the square root of its area, so that small ones are not repeated as often as
    large ones. The wide kinds degrade up to `CONTEXT` pixels around the patch too, and the patch is cut after: streaks,
    holes, shadows and the blocks of JPEG cross its border as they cross that of a tile. Those of `OF_WHOLE` degrade the
    whole photograph.

    Args:
        photographs: image files; read once and kept in memory with 8 bits per sample.
        kind: a degradation, a name in `rddm_fast.images.degrade.KINDS`; None degrades nothing, to learn to generate.
        patch: side of the square patches in pixels; every photograph must be at least that large.
        length: number of items. Item i depends only on (seed, i).
        seed: seed of all random choices, not negative.
        flip: mirror half of the patches left to right.
        shrink: greatest factor by which a region is scaled down to a patch, 1 for never. The factor is drawn per patch;
            half of the patches stay unscaled, and no region is larger than its photograph.

    Raises:
        ImageError: a file cannot be read.
        ValueError: a photograph is smaller than a patch, or an argument is out of range.
    """

    def __init__(
        self,
        photographs: Sequence[str | PathLike[str]],
        kind: str | None = "rain",
        *,
        patch: int = 64,
        length: int,
        seed: int = 0,
        flip: bool = True,
        shrink: float = 1.0,
    ) -> None:
        if not photographs:
            raise ValueError("no photographs given")
        if kind is not None and kind not in KINDS:
            raise ValueError(f"unknown degradation {kind!r}; choose one of {', '.join(KINDS)}")
        if patch < 1 or length < 0 or seed < 0 or shrink < 1:
            raise ValueError(
                f"patch must be at least 1, length and seed at least 0 and shrink at least 1, "
                f"got patch {patch}, length {length}, seed {seed}, shrink {shrink:g}"
            )
        self.paths = [Path(path) for path in photographs]
        self.kind = kind
        self.patch = patch
        self.length = length
        self.seed = seed
        self.flip = flip
        self.shrink = shrink
        self.context = CONTEXT if kind is not None and kind.startswith("wide-") else 0
        self._photographs = [_read_uint8(path) for path in self.paths]
        if kind in OF_WHOLE:
            self.context = max(max(photograph.shape) for photograph in self._photographs)
        for path, photograph in zip(self.paths, self._photographs, strict=True):
            if min(photograph.shape[:2]) < patch:
                height, width = photograph.shape[:2]
                raise ValueError(f"{path} is {width}x{height}, smaller than a patch of {patch}: leave it out")
        weight = np.sqrt([photograph.shape[0] * photograph.shape[1] for photograph in self._photographs])
        self._cumulative = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is out of range for {self.length} patches")
        rng = np.random.default_rng((self.seed, index))
        which = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.paths) - 1)
        region, top, left = self._draw_region(self._photographs[which], rng)
        patch = (slice(top, top + self.patch), slice(left, left + self.patch))
        item: Item = {"target": to_tensor(region[patch]), "name": self.paths[which].name}
        if self.kind is not None:
            degraded = as_learnt(degrade(region, self.kind, rng), self.kind, rng)
            item["input"] = to_tensor(degraded.image[patch])
            if degraded.photograph is not None:
                item["target"] = to_tensor(degraded.photograph[patch])
            if degraded.mask is not None:
                item["mask"] = torch.from_numpy(np.ascontiguousarray(degraded.mask[patch]))[None]
        return item

    def _draw_region(self, photograph: npt.NDArray[np.uint8], rng: np.random.Generator) -> tuple[FloatImage, int, int]:
        """Return a region of a photograph, a patch with what surrounds it, and the patch's top and left there."""
        height, width = photograph.shape[:2]
        # The interval is symmetric about 1, so half of the factors become 1.
        factor = max(1.0, rng.uniform(2 - self.shrink, self.shrink))
        side = min(round(self.patch * factor), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        scale = self.patch / side
        around = math.ceil(self.context / scale)
        first = max(0, top - around), max(0, left - around)
        last = min(height, top + side + around), min(width, left + side + around)
        region = photograph[first[0] : last[0], first[1] : last[1]]
        if self.flip and rng.random() < 0.5:
            region = region[:, ::-1]
            left, first = width - left - side, (first[0], width - last[1])
        if side == self.patch:
            pixels = np.ascontiguousarray(region).astype(np.float32) / np.float32(255)
            return pixels, top - first[0], left - first[1]
        scaled = torch.from_numpy(np.ascontiguousarray(region)).permute(2, 0, 1).float() / 255
        size = [max(self.patch, round(length * scale)) for length in region.shape[:2]]
        pixels = to_array(_resize(scaled, (size[0], size[1])))
        # Rounding may have left less room by a pixel.
        places = [round((at - start) * scale) for at, start in zip((top, left), first, strict=True)]
        return pixels, *(min(at, length - self.patch) for at, length in zip(places, size, strict=True))


def _crop(images: dict[str, Tensor], patch: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Cut the same random patch from each (C, H, W); images smaller than the patch are extended by reflection."""
    height, width = images["input"].shape[1:]
    missing = ((0, 0), (0, max(0, patch - height)), (0, max(0, patch - width)))
    if any(after for _, after in missing):
        # numpy's reflection may be longer than the image; torch's may not.
        images = {key: torch.from_numpy(np.pad(image.numpy(), missing, "reflect")) for key, image in images.items()}
    top, left = rng.integers(max(1, height - patch + 1)), rng.integers(max(1, width - patch + 1))
    return {key: image[:, top : top + patch, left : left + patch] for key, image in images.items()}


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (C, H, W) to another size by an antialiased triangle filter, which does not leave [0, 1]."""
    return torch.nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _read_uint8(path: Path) -> npt.NDArray[np.uint8]:
    return (read_image(path).pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
