"""SIGINT and SIGTERM are recorded instead of ending the process, and the old handlers come back."""

import signal
import threading

import pytest

from rddm_fast.system.signals import signals_noted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_recorded_and_the_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals_noted() as received:
        assert received == []
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert received == [number, number]
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), signals_noted():
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_records_nothing_and_changes_no_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with signals_noted() as received:
            seen.extend([signal.getsignal(signal.SIGINT) is before, received])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, []]
