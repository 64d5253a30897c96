"""Whether tensors of one call overlap in memory so that an op that writes in place could read what it has written.

csrc/common/overlap.h is the same check for the compiled backends; this one serves the reference and Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """The memory of a tensor.

    Attributes:
        begin, end: the first byte and the one after the last; equal without elements.
        item: the bytes of an element.
        dims: (stride, size) of the dimensions with more than one element, by falling stride.
    """

    begin: int
    end: int
    item: int
    dims: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, x: Tensor) -> Memory:
        """Return the memory of `x`."""
        if x.numel() == 0:
            return cls(0, 0, x.element_size(), ())
        dims = [(stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]
        dims.sort(key=lambda dim: -dim[0])
        last = sum(stride * (size - 1) for stride, size in dims)
        item = x.element_size()
        return cls(x.data_ptr(), x.data_ptr() + (last + 1) * item, item, tuple(dims))

    def meets_itself(self) -> bool:
        """Whether two elements may share memory: whether a stride is not beyond all that smaller ones reach."""
        reach = 0
        for stride, size in reversed(self.dims):
            if stride <= reach:
                return True
            reach += (size - 1) * stride
        return False

    def meets(self, other: Memory) -> bool:
        """Whether elements of this memory, which does not meet itself, and of `other` may be in one place.

        Two views of one layout, such as channels of one image, are told apart exactly.
        """
        if not (self.begin < other.end and other.begin < self.end):
            return False
        if self.item != other.item or [s for s, _ in self.dims] != [s for s, _ in other.dims]:
            return True
        distance, rest = divmod(other.begin - self.begin, self.item)
        both = tuple((stride, max(a, b)) for (stride, a), (_, b) in zip(self.dims, other.dims, strict=True))
        if rest != 0 or Memory(self.begin, self.end, self.item, both).meets_itself():
            return True
        return _has_distance(both, distance)


def _has_distance(dims: Sequence[tuple[int, int]], distance: int) -> bool:
    """Whether elements may lie `distance` apart. Strides that do not meet leave two candidates in each dimension."""
    if not dims:
        return distance == 0
    stride, size = dims[0]
    steps = distance // stride
    return any(abs(n) < size and _has_distance(dims[1:], distance - n * stride) for n in (steps, steps + 1))


def _are_one(a: Tensor, b: Tensor) -> bool:
    """Whether every element of `a` is at the place of the same element of `b`."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    alike = a.data_ptr() == b.data_ptr() and a.dtype == b.dtype and a.shape == b.shape
    return alike and all(size == 1 or s == s_b for size, s, s_b in strides)


def check_overlap(op: str, written: dict[str, Tensor], read: dict[str, Tensor], same: Sequence[str] = ()) -> None:
    """Raise RuntimeError for a call whose result would depend on the order in which elements are written.

    What an op reads may be what it writes, element for element: every element is read before it is written.

    Args:
        op: the op's name, for the message.
        written, read: the op's arguments by name.
        same: the names of written arguments that receive the same values; they may be one tensor.
    """
    before: dict[str, tuple[Tensor, Memory]] = {}
    for name, x in written.items():
        memory = Memory.of(x)
        if memory.meets_itself():
            raise RuntimeError(
                f"{op}: elements of {name} share memory, and it is written: pass a tensor that is not expanded"
            )
        for other, (y, its_memory) in before.items():
            if memory.meets(its_memory) and not (name in same and other in same and _are_one(x, y)):
                raise RuntimeError(
                    f"{op}: {other} and {name} share memory, and both are written: give each memory of its own"
                )
        for other, r in read.items():
            if memory.meets(Memory.of(r)) and not _are_one(x, r):
                raise RuntimeError(
                    f"{op}: {other} shares some of the memory of {name}, which is written: pass {other}.clone()"
                )
        before[name] = x, memory
