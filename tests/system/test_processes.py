"""A process's share of the work, from the launcher's environment."""

import itertools

import pytest

from rddm_fast.system.processes import rank, share, world_size


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_item_is_taken_once(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for count in (0, 1, 5, 6, 21):
        taken = []
        for number in range(world):
            monkeypatch.setenv("RANK", str(number))
            assert (rank(), world_size()) == (number, world)
            taken.append(share(list(range(count))))
        assert sorted(itertools.chain(*taken)) == list(range(count))
        assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), world_size(), share("abc")) == (0, 1, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"RANK": "first"}, "RANK is 'first': a launcher such as torchrun sets it to a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0: a job has at least one process"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2: it must be from 0 to WORLD_SIZE - 1, 1"),
    ],
)
def test_a_broken_environment_is_named(values: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, values.get(name, "1"))
    with pytest.raises(ValueError, match=sentence):
        share([1, 2])
