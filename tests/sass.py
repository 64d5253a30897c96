"""What a GPU executes of a kernel, read from its disassembled machine code (SASS)."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator

# An H200: instructions that it issues while it moves one byte, 128 a clock in each of 132 multiprocessors at 1.98 GHz
# beside 4.19 TB/s of copying. A kernel with more an element than that for its bytes is not memory-bound.
PER_BYTE = 128 * 132 * 1.98e9 / 4.19e12

Instructions = list[tuple[int, str]]  # each with its address
State = tuple[int, tuple[int, ...]]  # an instruction, and how many of each mark are before it


def kernels(sass: str) -> Iterator[tuple[str, Instructions]]:
    """The mangled name and the instructions of each kernel in cuobjdump's output."""
    for code in re.split(r"\n\s*Function : ", sass)[1:]:
        name, _, body = code.partition("\n")
        found = re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;", body)
        yield name.strip(), [(int(address, 16), text) for address, text in found]


def shortest_way(instructions: Instructions, marks: dict[str, int]) -> list[str] | None:
    """The fewest instructions from the entry to an exit among which each mark stands as often as it says.

    A mark is a pattern, its number how many of the way's instructions match. They choose among a kernel's ways: the
    tail of an image, for example, has no 128-bit accesses, and stored noise no square root. None without such a way.
    """
    index = {address: i for i, (address, _) in enumerate(instructions)}
    texts = [text for _, text in instructions]
    hits = [tuple(re.search(pattern, text) is not None for pattern in marks) for text in texts]
    wanted = tuple(marks.values())
    before: dict[State, State | None] = {}
    heap: list[tuple[int, State, State | None]] = [(0, (0, (0,) * len(marks)), None)]
    while heap:
        length, state, previous = heapq.heappop(heap)
        i, so_far = state
        if state in before or i >= len(texts):
            continue
        before[state] = previous
        counted = tuple(n + hit for n, hit in zip(so_far, hits[i], strict=True))
        if any(n > most for n, most in zip(counted, wanted, strict=True)):
            continue
        conditional, operation = bool(texts[i].startswith("@")), without_condition(texts[i])
        following = [i + 1]
        if operation.startswith("EXIT"):
            if counted == wanted:
                way: list[str] = []
                at: State | None = state
                while at is not None:
                    way.append(texts[at[0]])
                    at = before[at]
                return way[::-1]
            following = following if conditional else []
        elif operation.startswith("BRA"):
            conditional = conditional or re.match(r"BRA\S*\s+!?U?P\d", operation) is not None
            following = [index[int(re.search(r"0x([0-9a-f]+)", operation)[1], 16)], *following[: int(conditional)]]
        for j in following:
            heapq.heappush(heap, (length + 1, (j, counted), state))
    return None


def without_condition(text: str) -> str:
    return re.sub(r"^@\S+\s+", "", text)


def values_read_between_loads(way: list[str]) -> list[str]:
    """Every instruction that reads what a 128-bit load brought while another such load is still to come.

    It waits for the memory, and the loads after it are issued only then.
    """
    operations = [without_condition(text) for text in way]
    loads = [i for i, operation in enumerate(operations) if operation.startswith("LDG.E.128")]
    readers = []
    for i in loads:
        first = int(re.search(r"\bR(\d+)", operations[i])[1])
        for operation in operations[i + 1 : loads[-1]]:
            registers = [int(r) for r in re.findall(r"\bR(\d+)\b", operation)]
            if any(first <= r < first + 4 for r in registers[0 if operation.startswith("ST") else 1 :]):
                readers.append(operation)
                break
    return readers
