"""Calls are timed in turns, after a warm-up that does not count."""

from collections.abc import Callable

from rddm_fast.system.timing import in_turns, seconds


def test_calls_take_turns_and_the_warm_up_does_not_count() -> None:
    called: list[str] = []
    calls = {name: (lambda name=name: called.append(name)) for name in ("a", "b")}

    def clock(call: Callable[[], object]) -> float:
        call()
        return float(len(called))

    assert in_turns(calls, 2, warm_up=1, clock=clock) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert called == ["a", "b"] * 3
    assert seconds(lambda: None) >= 0
