"""Files of `torch.save`, read so that they cannot run code."""

from __future__ import annotations

import pickle
import re
import warnings
from os import PathLike
from typing import Any

import torch

_FOREIGN = re.compile(r"\bGLOBAL (\S+)")
"""torch names what it refuses so, in a paragraph on how to load it all the same."""


class NotOnlyTensors(ValueError):
    """A file holds something that could run code; the message is one sentence that names both."""


def load_saved(path: str | PathLike[str], device: torch.device | str = "cpu") -> Any:
    """Load tensors and plain values onto `device`.

    Raises:
        NotOnlyTensors: the file holds something else, and nothing of it was run.
        Exception: torch's own errors, of many types, for a file that is damaged or no file of `torch.save`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on the pickle's protocol, before it is refused or read
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        found = _FOREIGN.search(str(error))
        if found is None:
            raise pickle.UnpicklingError("it is not written as torch.save writes tensors") from error
        raise NotOnlyTensors(
            f"{path} holds more than tensors ({found[1]}) and is not loaded, because that could run code: save its "
            "state dicts alone, where you trust it"
        ) from error
