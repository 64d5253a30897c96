"""The captured loop without a GPU: a recorder of torch's ops stands in for CUDA's graphs.

A replay runs the recorded ops again on the recorded tensors, as a graph does; the host's work between two images is not
part of it. So these tests show that the loop reads its inputs, draws and tables from memory that is refilled, and that
callers keep what they got. Streams, and what CUDA refuses to capture, can be tested on a GPU only.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_models import images, small_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rddm_fast.fast import FastSampler


class RecordedGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = op(*args, **(kwargs or {}))
        self.ops.append((op, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for op, args, kwargs, result in self.ops:
            for new, recorded in zip(tree_leaves(op(*args, **kwargs)), tree_leaves(result), strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != recorded.data_ptr():
                    recorded.copy_(new)


class NoStream:
    def __init__(self, *_: Any) -> None: ...
    def wait_stream(self, _: Any) -> None: ...


@contextlib.contextmanager
def nowhere(_: Any) -> Iterator[None]:
    yield


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = {"CUDAGraph": RecordedGraph, "graph": lambda graph: graph, "Stream": NoStream}
    for name, ours in {**replaced, "current_stream": NoStream, "stream": nowhere, "device": nowhere}.items():
        monkeypatch.setattr(torch.cuda, name, ours)


@pytest.mark.parametrize("kind", [{}, {"networks": "shared"}, {"eta": 1.0, "self_condition": True}], ids=str)
def test_a_replay_is_the_loop_on_other_images(kind: dict[str, Any], recorded: None) -> None:
    diffusion = small_model(**kind)
    plain, captured = FastSampler(diffusion), FastSampler(diffusion)
    captured.graphs, captured.loop.parallel = True, False  # set here, because FastSampler refuses graphs=True on a CPU
    kept = []
    for i, shape in enumerate([(1, 3, 40, 24), (2, 3, 16, 16), (1, 3, 40, 24), (2, 3, 16, 16)]):
        x, draws = images(*shape, seed=i), [torch.randn(shape) for _ in range(4)]
        expected, ours = (sampler.sample(x, draws=draws)[-1] for sampler in (plain, captured))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        kept.append((ours, ours.clone()))
    assert len(captured._graphs) == 2
    assert all(torch.equal(image, copy) for image, copy in kept)  # no replay wrote into what a caller has


def test_at_most_so_many_are_kept(recorded: None) -> None:
    sampler = FastSampler(small_model(), max_graphs=2)
    sampler.graphs, sampler.loop.parallel = True, False
    for side in (16, 24, 32, 16):
        sampler(images(1, 3, side, side))
    assert [key[0][-1] for key in sampler._graphs] == [32, 16]
    sampler.reset()
    assert not sampler._graphs
