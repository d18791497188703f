"""Calls that wait for a real process, which is killed."""

import multiprocessing
import threading
import time

import pytest

from srl_swe.training.watched_calls import ProcessEndedError, WatchedCalls


@pytest.mark.parametrize("killed", [True, False])
def test_the_end_of_a_process_ends_the_wait(killed: bool) -> None:
    context = multiprocessing.get_context("spawn")
    # Both ends stay open here, so that nothing but the process tells that no answer will come.
    ours, theirs = context.Pipe()
    process = context.Process(target=time.sleep, args=(600 if killed else 0.5,))
    process.start()
    with WatchedCalls([process]) as calls:
        theirs.send("early")
        assert calls.run(ours.recv) == "early"
        if killed:
            with pytest.raises(ZeroDivisionError):
                calls.run(lambda: 1 // 0)
            threading.Timer(0.3, process.kill).start()
        started = time.monotonic()
        with pytest.raises(ProcessEndedError, match=f"{process.pid}.*ended by {-9 if killed else 0}"):
            calls.run(ours.recv)
        assert time.monotonic() - started < 30
    process.join()


def test_a_call_that_fails_as_a_process_ends_tells_of_the_end() -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    with WatchedCalls([process]) as calls:
        threading.Timer(0.3, process.kill).start()
        with pytest.raises(ProcessEndedError, match=f"{process.pid}.*ended by -9") as caught:
            calls.run(lambda: 1 // 0)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    process.join()


def test_an_answer_counts_although_the_process_has_ended() -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    with WatchedCalls([process]) as calls:
        assert calls.run(lambda: "here") == "here"


def test_calls_stay_on_one_thread() -> None:
    with WatchedCalls([]) as calls:
        first, second = (calls.run(threading.get_ident) for _ in range(2))
    assert first == second != threading.get_ident()
