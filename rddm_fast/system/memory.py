"""Whether an error says that memory ran out."""

from __future__ import annotations

import re

# torch's CPU allocator raises a plain RuntimeError. In the compiled ops only the call that failed is known: one that
# makes a tensor of checked sizes fails for want of memory alone.
_TOLD = re.compile(
    r"DefaultCPUAllocator|not enough memory|out of memory"
    r"|(?:empty|empty_like|empty_strided|new_empty|new_zeros|contiguous|clone)\b.*API call failed",
    re.DOTALL,
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy or torch, on a CPU or a GPU, says that memory ran out."""
    import torch  # late: the command line asks, whose --help does not wait for torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _TOLD.search(str(error)) is not None
