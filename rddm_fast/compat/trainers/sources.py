"""The images that the published trainers read: lists and folders in the layout of each experiment."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ...images.datasets import PairedImages
from ...images.pairs import LIST_SUFFIXES, DataError, Pair, find_pairs
from ...images.prepared import Prepared
from ...system.errors import one_line
from ...theory.experiments import EXPERIMENTS, Experiment

INPAINTING, TRANSLATION = EXPERIMENTS["inpainting"], EXPERIMENTS["translation"]
FACES = (EXPERIMENTS["path-independent"], EXPERIMENTS["generation"])
SOURCE = Path("src", "residual_denoising_diffusion_pytorch.py")
"""Where the published scripts keep the class, below the folder that they run in."""


class Sources:
    """The training and test images of a published trainer.

    Args:
        folder: what the script passes as `folder`.

            * To restore: three sources (truth, input, test input), four (truth, input, test truth, test input) or six
              (truth, input, mask, and the same to test).
            * To generate: one source.
            * Inpainting: two sources (images, test images), whose middle becomes grey; or, as published, an empty list:
              the two folders are then read from the script's own `src/residual_denoising_diffusion_pytorch.py`.
            * Translation: three sources; the images of a pair may differ in size, and truths without an input are not
              used.
        experiment: the published experiment, or None.
        condition: whether the model restores.
        image_size: side of the images that the network is trained on.
        flip: mirror a training image with probability 1/2.
        grey: read one channel.
        crop_patch: train on random patches and test on whole images.
        equalize: equalise the histograms of the inputs.
        faces: crop aligned CelebA images to their faces, where the experiment generates them.
        seed: of all random choices.

    Raises:
        ValueError: another number of sources, or sources that do not fit together.
    """

    def __init__(
        self,
        folder: str | Path | Sequence[str],
        experiment: Experiment | None,
        *,
        condition: bool,
        image_size: int | None,
        flip: bool,
        grey: bool,
        crop_patch: bool,
        equalize: bool,
        faces: bool,
        seed: int,
    ) -> None:
        self.condition, self.image_size, self.crop_patch = condition, image_size, crop_patch
        self.train_pairs, self.test_pairs = _pairs(folder, experiment, condition)
        self.centre_hole = experiment is INPAINTING and _is_plain(folder)
        self.flip = flip and not self.centre_hole  # The published inpainting data set mirrors nothing.
        self._read: dict[str, Any] = {"grey": grey, "seed": seed, "one_size": experiment is not TRANSLATION}
        self._prepare: dict[str, Any] = {
            "size": None if crop_patch else image_size,
            "equalize_input": equalize and condition,
            "crop_faces": faces and experiment in FACES,
            "centre_hole": self.centre_hole,
        }

    @property
    def test_files(self) -> list[Path]:
        """The test inputs."""
        return [pair.input for pair in self.test_pairs]

    def training(self, length: int) -> Dataset[dict[str, Any]]:
        """The items to train on, `length` of them, in their order."""
        patch = self.image_size if self.crop_patch else None
        images = PairedImages(
            self.train_pairs, patch=patch, flip=0.5 if self.flip else 0.0, length=length, **self._read
        )
        return Prepared(images, input_is_target=not self.condition or self.centre_hole, **self._prepare)

    def testing(self) -> Dataset[dict[str, Any]] | None:
        """The items to test on; None where there are none."""
        if not self.test_pairs:
            return None
        images = PairedImages(self.test_pairs, flip=0.0, **self._read)
        return Prepared(images, input_is_target=self.centre_hole, **self._prepare)


def _is_plain(folder: str | Path | Sequence[str]) -> bool:
    """Whether inpainting's `folder` names whole images, whose middle is still to be cut."""
    return not isinstance(folder, str | Path) and len(folder) in (0, 2)


def _pairs(
    folder: str | Path | Sequence[str], experiment: Experiment | None, condition: bool
) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to train on and the pairs to test on."""
    if not condition:
        if not isinstance(folder, str | Path):
            raise ValueError("to generate, folder is one folder or list of images; several are for condition=True")
        return find_pairs(folder), []
    if experiment is INPAINTING and _is_plain(folder):
        train, test = list(folder) if folder else _folders_in_source(SOURCE)  # type: ignore[arg-type]
        return find_pairs(train), find_pairs(test)
    if isinstance(folder, str | Path) or len(folder) not in (3, 4, 6):
        raise ValueError(
            "to restore, folder is a list of 3 (truth, input, test input), 4 (truth, input, test truth, test input) "
            "or 6 sources (truth, input, mask, and the same to test)"
        )
    unpaired = experiment is TRANSLATION
    if len(folder) == 6:
        return _paired(folder[1], folder[0], folder[2]), _paired(folder[4], folder[3], folder[5])
    test_truth = folder[2] if len(folder) == 4 else None
    return _paired(folder[1], folder[0], unpaired=unpaired), _paired(folder[-1], test_truth, unpaired=unpaired)


def _folders_in_source(source: Path) -> tuple[str, str]:
    """Return the folders of images to train and to test on that the published inpainting source names."""
    advice = "pass folder=[IMAGES, TEST_IMAGES], two folders or lists of whole images"
    if not source.is_file():
        raise ValueError(f"folder is empty, and there is no {source} here to read inpainting's folders from: {advice}")
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(
            f"folder is empty, and {source} cannot be read as Python ({one_line(error)}): {advice}"
        ) from None
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dataset" and node.args
    ]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))  # `walk` goes by depth.
    values = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    named = [value for value in values if isinstance(value, str)]
    if len(named) != 2:
        raise ValueError(f"folder is empty, and {source} names {len(named)} folders of images instead of 2: {advice}")
    test, train = named  # in the order of the published source
    return train, test


def _paired(given: str, truth: str | None, mask: str | None = None, *, unpaired: bool = False) -> list[Pair]:
    """Pair the files of lists by their order, as the published code does, and the files of folders by name.

    Unpaired sources are folders or lists, paired by their order; truths beyond the inputs are not used.
    """
    sources = [source for source in (given, truth, mask) if source is not None]
    if not unpaired and any(Path(source).suffix.lower() not in LIST_SUFFIXES for source in sources):
        return find_pairs(given, truth, mask)
    inputs, *others = ([pair.input for pair in find_pairs(source)] for source in sources)
    for source, paths in zip(sources[1:], others, strict=True):
        if len(paths) != len(inputs) and not (unpaired and len(paths) > len(inputs)):
            rule = "each input needs a truth of its place" if unpaired else "lines are paired by order"
            raise DataError(f"{given} names {len(inputs)} images and {source} {len(paths)}: {rule}")
    truths = others[0] if truth is not None else [None] * len(inputs)
    masks = others[-1] if mask is not None else [None] * len(inputs)
    return [Pair(i, t, m, i.stem, given) for i, t, m in zip(inputs, truths, masks, strict=False)]
