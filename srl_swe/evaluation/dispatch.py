"""Work goes to the places of a fleet, and to another place where one fails or is lost.

An infrastructure failure at one place is tried at others before it becomes an outcome. A place that does not answer
is taken out, and what ran there goes back into the queue: that is not the instance's failure, unless it happens to
the same instance again and again. Runs in one thread, its owner's; threads of the fleet's pool do the waiting.
Left out: which instance a free place takes (`routing`), what is known of the places (`fleet`).
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from srl_swe.errors import ContainerError, EngineTimeoutError
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import Place, needed_images, published_image
from srl_swe.evaluation.routing import choose
from srl_swe.pool import WorkTimeoutError
from srl_swe.types import Instance, Prediction, Verdict

Job = tuple[Instance, Prediction]
Outcome = Verdict | Exception

MAX_FAILURES = 3
"""Places at which the grading of an instance may fail; then the last failure is its outcome."""
MAX_LOSSES = 3
"""Places that may be lost while an instance is graded there; then it is not graded any more."""
MAX_DOUBTS = 3
"""Instances that failed at a place and wait for others' word on them, until it gets no new ones: a place where
everything fails at once would else take the whole queue."""
CHECK_INTERVAL_S = 30.0
"""Between two questions whether a place still answers; a single place is asked only when something failed there."""
SEARCH_INTERVAL_S = 20.0
"""Between two searches for places that have come or are back."""

_TICK_S = 0.5
_CHECK_LIMIT_S = 90.0
_LOOK_LIMIT_S = 300.0
_SEARCH_LIMIT_S = 300.0
_MAX_STRIKES = 2
"""Checks in a row that may end without an answer in time."""

logger = logging.getLogger(__name__)


class PlaceLostError(ContainerError):
    """After a failure the place did not answer."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Work:
    """An instance on its way to an outcome."""

    job: Job
    images: tuple[str, ...]
    failures: dict[str, Outcome] = field(default_factory=dict)
    """By the place's name."""
    losses: list[str] = field(default_factory=list)
    """Why each place was lost while this was graded there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graded:
    verdict: Verdict
    images: Mapping[str, str]
    """Ids of images that it was graded on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """What a thread does, and what becomes of its outcome in the owner's thread."""

    work: Callable[[], object]
    limit_s: float
    then: Callable[[object], None]
    """Takes the outcome, exceptions included."""


class Dispatch:
    """One pass of jobs through a fleet."""

    def __init__(
        self,
        fleet: Fleet,
        jobs: Sequence[Job],
        judge: Callable[[Place, Job], Verdict],
        *,
        max_parallel: int,
        limit_s: Callable[[Job], float],
    ) -> None:
        """`max_parallel` jobs at a time at each place, none longer than its limit."""
        self._fleet = fleet
        self._judge = judge
        self._max_parallel = max_parallel
        self._limit_s = limit_s
        self._waiting = [_Work(job=job, images=needed_images(job[0])) for job in jobs]
        self._running: dict[_Work, Place] = {}
        self._tasks = fleet.pool.in_background(lambda task: task.work(), limit_s=_limit_of)
        self._finished: deque[tuple[Job, Outcome, Mapping[str, str]]] = deque()
        """With the ids of images that it was graded on."""
        self._busy: set[tuple[str, str]] = set()
        """(what, place's name) of questions under way."""
        self._strikes: Counter[str] = Counter()
        self._last_checks = time.monotonic()
        self._last_search = time.monotonic()

    def outcomes(self) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job once with its verdict, or the exception that its grading ended in, as they come.

        Raises:
            EngineUnavailableError: no place is left; jobs that were not yielded have no outcome.
        """
        while self._waiting or self._running:
            self._ask_places()
            self._assign()
            yield from self._take_finished()
            if self._waiting and not self._running:
                self._fleet.require_places()
                time.sleep(_TICK_S)
            for task, outcome in self._tasks.take(timeout_s=_TICK_S):
                task.then(outcome)
            yield from self._take_finished()

    def _take_finished(self) -> Iterator[tuple[Job, Outcome]]:
        while self._finished:
            job, outcome, images = self._finished.popleft()
            # Right before: what is asked of the image next is about this outcome, whatever was graded elsewhere.
            self._fleet.note_graded(images)
            yield job, outcome

    def _assign(self) -> None:
        """Give work to places until none is free or nothing is left that they may do."""
        places = [place for place in self._fleet.places if self._fleet.has_looked(place)]
        self._give_up_what_is_refused()
        while places and self._waiting:
            images = self._fleet.images()
            load = Counter(place.name for place in self._running.values())
            places = [
                place for place in places if load[place.name] < self._max_parallel and not self._has_suspect(place)
            ]
            doubts = Counter(name for work in (*self._waiting, *self._running) for name in work.failures)
            for place in sorted(places, key=lambda place: load[place.name]):
                doubted = doubts[place.name] >= MAX_DOUBTS
                possible = [
                    work
                    for work in self._waiting
                    if place.name not in work.failures
                    and not (self._is_suspect(work) and load[place.name])
                    and (work.failures or not doubted)
                ]
                index = choose(place.name, [work.images for work in possible], images)
                if index is None:
                    continue
                if place.admit(possible[index].job[0]):
                    self._start(place, possible[index])
                else:
                    places.remove(place)
                break
            else:
                return

    def _start(self, place: Place, work: _Work) -> None:
        self._waiting.remove(work)
        self._running[work] = place
        self._fleet.expect_images(place, work.images)
        self._tasks.add(
            _Task(
                work=partial(self._grade_at, place, work),
                limit_s=self._limit_s(work.job),
                then=partial(self._judged, place, work),
            )
        )

    def _grade_at(self, place: Place, work: _Work) -> object:
        """Grade in a thread; after a failure of the infrastructure ask whether the place is there at all."""
        outcome: Verdict | ContainerError
        try:
            outcome = self._judge(place, work.job)
        except ContainerError as error:
            outcome = error
        if isinstance(outcome, ContainerError) or outcome.status == "invalid":
            try:
                place.check_alive()
            except ContainerError as error:
                raise PlaceLostError(str(error)) from error
            return outcome
        return _Graded(verdict=outcome, images=published_image(place, work.job[0]))

    def _judged(self, place: Place, work: _Work, outcome: object) -> None:
        if self._running.get(work) is not place:
            return  # the place was taken out meanwhile, and the work begun elsewhere
        if isinstance(outcome, PlaceLostError):
            self._lose(place, str(outcome))
            return
        del self._running[work]
        if isinstance(outcome, _Graded):
            self._fleet.believe(place)
            self._finished.append((work.job, outcome.verdict, outcome.images))
            for name in work.failures:
                if (blamed := self._fleet.blame(name)) is not None:
                    last = _reason(work.failures[name])
                    self._lose(
                        blamed, f"instances fail there that are graded elsewhere, the last with: {last}", loss=False
                    )
        elif isinstance(outcome, (Verdict, ContainerError, WorkTimeoutError)):
            self._fleet.forget_images(place, work.images)
            work.failures[place.name] = outcome
            logger.info("%s failed at %s: %s", work.job[0].instance_id, place.name, _reason(outcome))
            self._waiting.insert(0, work)
            if isinstance(outcome, WorkTimeoutError):
                self._check(place)
        else:
            assert isinstance(outcome, Exception)
            self._finished.append((work.job, outcome, {}))  # not of the infrastructure: it would happen anywhere

    def _give_up_what_is_refused(self) -> None:
        names = {place.name for place in self._fleet.places}
        for work in [work for work in self._waiting if work.failures]:
            if len(work.failures) >= MAX_FAILURES or (names and names <= work.failures.keys()):
                self._waiting.remove(work)
                self._finished.append((work.job, list(work.failures.values())[-1], {}))

    def _lose(self, place: Place, why: str, *, loss: bool = True) -> None:
        """Take a place out and put what ran there back; `loss` says whether that speaks against what ran."""
        self._fleet.lose(place, why)
        self._strikes.pop(place.name, None)
        for work in [work for work, at in self._running.items() if at is place]:
            del self._running[work]
            if loss:
                work.losses.append(f"{place.name}: {why}")
            if len(work.losses) < self._max_losses:
                # At the end of the queue: what takes places down does not keep the others from their verdicts.
                self._waiting.append(work)
                continue
            instance_id = work.job[0].instance_id
            reason = f"{len(work.losses)} engines were lost while it was graded there ({'; '.join(work.losses)})"
            self._finished.append((work.job, Verdict(instance_id=instance_id, status="invalid", reason=reason), {}))

    @property
    def _max_losses(self) -> int:
        return max(2, min(MAX_LOSSES, self._fleet.num_ever))

    def _is_suspect(self, work: _Work) -> bool:
        """Say whether the next loss would be the last one; it is then to be graded with nothing beside it."""
        return len(work.losses) == self._max_losses - 1

    def _has_suspect(self, place: Place) -> bool:
        return any(at is place and self._is_suspect(work) for work, at in self._running.items())

    def _ask_places(self) -> None:
        """Begin the questions that are due: which images, still there, and who else is there."""
        now = time.monotonic()
        places = self._fleet.places
        for place in places:
            if not self._fleet.has_looked(place):
                names = tuple(dict.fromkeys(name for work in self._waiting for name in work.images))
                self._ask("look", place, partial(self._fleet.look, place, names), _LOOK_LIMIT_S)
        if now - self._last_checks >= CHECK_INTERVAL_S and self._fleet.num_ever > 1:
            self._last_checks = now
            for place in places:
                self._check(place)
        if now - self._last_search >= SEARCH_INTERVAL_S and self._fleet.find_more is not None:
            self._last_search = now
            if ("search", "") not in self._busy:
                self._busy.add(("search", ""))
                self._tasks.add(_Task(work=self._fleet.search, limit_s=_SEARCH_LIMIT_S, then=self._searched))

    def _check(self, place: Place) -> None:
        self._ask("check", place, place.check_alive, _CHECK_LIMIT_S)

    def _ask(self, what: str, place: Place, question: Callable[[], object], limit_s: float) -> None:
        if (what, place.name) not in self._busy:
            self._busy.add((what, place.name))
            self._tasks.add(_Task(work=question, limit_s=limit_s, then=partial(self._answered, what, place)))

    def _answered(self, what: str, place: Place, outcome: object) -> None:
        self._busy.discard((what, place.name))
        if isinstance(outcome, (EngineTimeoutError, WorkTimeoutError)):
            self._strikes[place.name] += 1
            if self._strikes[place.name] >= _MAX_STRIKES:
                self._lose(place, str(outcome))
            else:
                self._check(place)
        elif isinstance(outcome, ContainerError):
            self._lose(place, str(outcome))
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            self._strikes[place.name] = 0

    def _searched(self, outcome: object) -> None:
        self._busy.discard(("search", ""))
        if isinstance(outcome, (ContainerError, WorkTimeoutError)):
            logger.warning("nothing is known of further engines at the moment: %s", outcome)
        elif isinstance(outcome, Exception):
            raise outcome


def _limit_of(task: _Task) -> float:
    return task.limit_s


def _reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Verdict) else f"{type(outcome).__name__}: {outcome}"
