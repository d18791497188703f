"""Bounded parallel work: how many at once, what becomes of errors, and that nothing can hang it."""

import threading
import time

from srl_swe.pool import WorkPool, WorkTimeoutError


def test_never_more_than_the_bound_at_once() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return item * item

    outcomes = dict(WorkPool(3).run(range(20), work, limit_s=lambda _: 30.0))
    assert outcomes == {item: item * item for item in range(20)}
    assert most == 3


def test_errors_are_outcomes() -> None:
    def work(item: str) -> int:
        return int(item)

    outcomes = dict(WorkPool(2).run(["1", "x"], work, limit_s=lambda _: 30.0))
    assert outcomes["1"] == 1
    assert isinstance(outcomes["x"], ValueError)


def test_work_that_hangs_gives_its_place_away() -> None:
    release = threading.Event()

    def work(item: int) -> int:
        if item < 2:
            release.wait(60)
        return item

    pool = WorkPool(2)
    started = time.monotonic()
    outcomes = dict(pool.run(range(4), work, limit_s=lambda item: 0.3 if item < 2 else 30.0))
    assert time.monotonic() - started < 10
    assert isinstance(outcomes[0], WorkTimeoutError)
    assert isinstance(outcomes[1], WorkTimeoutError)
    assert (outcomes[2], outcomes[3]) == (2, 3)
    assert not pool.join(0.05)
    release.set()
    assert pool.join(5)


def test_closing_the_iterator_starts_no_more() -> None:
    begun: list[int] = []
    outcomes = WorkPool(1).run(range(10), begun.append, limit_s=lambda _: 30.0)
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert begun == [0]


def test_work_goes_on_beside_its_owner() -> None:
    release = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            release.wait(60)
        return item

    background = WorkPool(2).in_background(work, limit_s=lambda _: 30.0)
    assert background.take(timeout_s=5) == []
    background.add(0)
    background.add(1)
    # It waits for the first outcome, not for all.
    assert background.take(timeout_s=5) == [(1, 1)]
    started = time.monotonic()
    assert background.take(timeout_s=0) == []
    assert time.monotonic() - started < 1
    assert background.num_pending == 1
    release.set()
    assert background.take(timeout_s=5) == [(0, 0)]
    assert background.num_pending == 0


def test_work_waits_until_it_may_start_and_later_work_with_it() -> None:
    refusals = {"first": 2, "second": 0}
    started: list[str] = []

    def may_start(item: str) -> bool:
        refusals[item] -= 1
        return refusals[item] < 0

    outcomes = list(WorkPool(1).run(["first", "second"], started.append, limit_s=lambda _: 10, may_start=may_start))
    assert started == ["first", "second"]
    assert [item for item, _ in outcomes] == ["first", "second"]
    assert refusals == {"first": -1, "second": -1}
