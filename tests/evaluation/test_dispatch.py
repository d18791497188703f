"""Who grades what, and what becomes of work whose place fails or is lost; places here are plain functions."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from srl_swe.errors import ContainerError, DataError, EngineUnavailableError
from srl_swe.evaluation import dispatch
from srl_swe.evaluation.dispatch import Dispatch, Job, Outcome
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.places import Place
from srl_swe.evaluation.routing import choose
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Prediction, Verdict

INSTANCE = Instance(
    instance_id="i-0",
    repo="a/b",
    base_commit="",
    problem_statement="",
    environment=InstanceEnvironment(image="none"),
    tests=InstanceTests(script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=(), timeout_s=1.0),
    gold_patch="",
)


def jobs(count: int, *, images: Sequence[str] = ("none",)) -> list[Job]:
    made = []
    for number in range(count):
        environment = InstanceEnvironment(image=images[number % len(images)])
        instance = replace(INSTANCE, instance_id=f"i-{number}", environment=environment)
        made.append((instance, Prediction(instance_id=f"i-{number}", model_name_or_path="m", model_patch="p")))
    return made


class Grades:
    """A place that grades by a function, until it dies."""

    def __init__(
        self, name: str, by: Callable[["Grades", str], object] = lambda place, instance_id: None, *, has: str = ""
    ) -> None:
        self.name = name
        self.graded: list[str] = []
        self.dead = ""
        self.closed = threading.Event()
        self._by = by
        self._has = has.split()

    def judge(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
        self._by(self, instance.instance_id)
        self.check_alive()
        self.graded.append(instance.instance_id)
        return Verdict(instance_id=instance.instance_id, status="resolved", reason=self.name)

    def ordered(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        return instances

    def admit(self, instance: Instance) -> bool:
        return True

    def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
        return {name: f"id of {name}" for name in names if name in self._has}

    def check_alive(self) -> None:
        if self.dead:
            raise EngineUnavailableError(self.dead)

    def stop_running(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


def run(fleet: Fleet, work: Sequence[Job], *, max_parallel: int = 1, limit_s: float = 20.0) -> dict[str, Outcome]:
    """Return the outcomes by instance; each comes once."""
    found: dict[str, Outcome] = {}
    fleet.prepare([instance for instance, _ in work])
    each = Dispatch(
        fleet,
        work,
        lambda place, job: place.judge(job[0], "p", lambda stage: None),
        max_parallel=max_parallel,
        limit_s=lambda job: limit_s,
    )
    for (instance, _), outcome in each.outcomes():
        assert instance.instance_id not in found
        found[instance.instance_id] = outcome
    return found


def who(outcomes: Mapping[str, Outcome]) -> Counter[str]:
    return Counter(outcome.reason if isinstance(outcome, Verdict) else str(outcome) for outcome in outcomes.values())


def naps(place: Grades, instance_id: str) -> None:
    time.sleep(0.02)


def test_work_is_spread_and_each_place_has_its_bound() -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    counting = threading.Lock()

    def count(place: Grades, instance_id: str) -> None:
        with counting:
            running[place.name] += 1
            most[place.name] = max(most[place.name], running[place.name])
        time.sleep(0.02)
        with counting:
            running[place.name] -= 1

    outcomes = run(Fleet([Grades("a", count), Grades("b", count)]), jobs(20), max_parallel=2)
    assert len(outcomes) == 20
    assert set(who(outcomes)) == {"a", "b"}
    assert most == {"a": 2, "b": 2}


def test_what_ran_at_a_lost_place_is_graded_elsewhere_once() -> None:
    both_run, died = threading.Barrier(2), threading.Event()

    def dies(place: Grades, instance_id: str) -> None:
        both_run.wait(10)
        if instance_id == "i-0":
            place.dead = "power cut"
            died.set()
        else:
            died.wait(10)
            time.sleep(0.5)  # comes back long after the place was taken out
            place.dead = ""

    lost, kept = Grades("lost", dies), Grades("kept", lambda place, instance_id: died.wait(10) and None)
    outcomes = run(Fleet([lost, kept]), jobs(6), max_parallel=2)
    assert who(outcomes) == {"kept": 6}
    assert lost.closed.wait(10)


def test_when_all_are_lost_it_says_why_and_the_rest_has_no_outcome() -> None:
    def second_time(place: Grades, instance_id: str) -> None:
        if place.graded:
            place.dead = f"no power at {place.name}"

    found: dict[str, Outcome] = {}
    fleet = Fleet([Grades("a", second_time), Grades("b", second_time)])
    each = Dispatch(
        fleet,
        jobs(8),
        lambda place, job: place.judge(job[0], "p", lambda stage: None),
        max_parallel=1,
        limit_s=lambda job: 20.0,
    )
    with pytest.raises(EngineUnavailableError, match=r"a: no power at a.*b: no power at b|b: .*a: "):
        for (instance, _), outcome in each.outcomes():
            found[instance.instance_id] = outcome
    assert {name for name, outcome in found.items() if outcome.status == "resolved"} == {"i-0", "i-1"}  # type: ignore[union-attr]
    assert len(found) < 8


def test_an_instance_that_takes_places_down_becomes_invalid_and_the_others_do_not_suffer() -> None:
    def poisoned(place: Grades, instance_id: str) -> None:
        time.sleep(0.05)
        if instance_id == "i-1":
            place.dead = "kernel panic"

    places = [Grades(name, poisoned) for name in "abcde"]
    outcomes = run(Fleet(places), jobs(12), max_parallel=3)
    bad = outcomes.pop("i-1")
    assert isinstance(bad, Verdict)
    assert bad.status == "invalid"
    assert bad.reason.startswith("3 engines were lost while it was graded there (")
    assert bad.reason.count("kernel panic") == 3
    assert len(outcomes) == 11
    assert all(isinstance(outcome, Verdict) and outcome.status == "resolved" for outcome in outcomes.values())
    assert sum(bool(place.dead) for place in places) == 3


def test_a_failure_at_a_place_that_answers_is_tried_at_others() -> None:
    def full(place: Grades, instance_id: str) -> None:
        if place.name == "full" or instance_id == "i-3":
            raise ContainerError(f"no room at {place.name}")

    places = [Grades("full", full), Grades("b", full), Grades("c", full)]
    outcomes = run(Fleet(places), jobs(5))
    assert isinstance(outcomes["i-3"], ContainerError)
    assert set(who({name: each for name, each in outcomes.items() if name != "i-3"})) <= {"b", "c"}
    alone = run(Fleet([Grades("full", full)]), jobs(2))
    assert who(alone) == {"no room at full": 2}


def test_an_invalid_verdict_is_a_failure_too() -> None:
    class Invalid(Grades):
        def judge(self, instance: Instance, patch: str, say: Callable[[str], None]) -> Verdict:
            return replace(super().judge(instance, patch, say), status="invalid", reason=f"no room at {self.name}")

    assert who(run(Fleet([Invalid("full"), Grades("b")]), jobs(6))) == {"b": 6}
    assert who(run(Fleet([Invalid("full")]), jobs(1))) == {"no room at full": 1}


def test_a_place_where_instances_fail_that_are_graded_elsewhere_is_taken_out() -> None:
    tried: list[str] = []

    def full(place: Grades, instance_id: str) -> None:
        tried.append(instance_id)
        raise ContainerError("disk full")

    fleet = Fleet([Grades("full", full), Grades("b", naps)])
    assert who(run(fleet, jobs(20))) == {"b": 20}
    assert 3 <= len(tried) <= 5
    assert [place.name for place in fleet.places] == ["b"]


def test_what_is_wrong_with_an_instance_is_not_tried_again() -> None:
    calls: list[str] = []

    def refuses(place: Grades, instance_id: str) -> None:
        calls.append(instance_id)
        raise DataError("no such parser")

    outcomes = run(Fleet([Grades("a", refuses), Grades("b", refuses)]), jobs(3))
    assert sorted(calls) == ["i-0", "i-1", "i-2"]
    assert all(isinstance(outcome, DataError) for outcome in outcomes.values())


def test_work_goes_where_its_image_is() -> None:
    places = [Grades("a", naps, has="red blue"), Grades("b", naps, has="green")]
    fleet = Fleet(places)
    run(fleet, jobs(12, images=("red", "green", "blue")))
    # At the end the idle one helps, so only what a place took first is certain.
    assert places[0].graded[0] == "i-0"
    assert places[1].graded[:3] == ["i-1", "i-4", "i-7"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("a", 0),  # its own image is here
        ("b", 1),  # nobody has its own, but what that is built on is here
        ("c", 2),  # nobody has anything of it
    ],
)
def test_the_nearest_image_first(place: str, expected: int) -> None:
    images = {"a": {"red"}, "b": {"base"}, "c": set[str]()}
    wanted = [["red"], ["new", "base"], ["newer", "other base"]]
    assert choose(place, wanted, images) == expected


def test_an_idle_place_takes_what_another_has_the_image_of() -> None:
    assert choose("b", [["red"]], {"a": {"red"}, "b": set()}) == 0
    assert choose("b", [], {"a": {"red"}}) is None


def test_a_place_that_comes_later_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SEARCH_INTERVAL_S", 0.0)
    asked: list[Collection[str]] = []
    late = Grades("late")

    def find_more(not_wanted: Collection[str]) -> Sequence[Place]:
        asked.append(set(not_wanted))
        return [late] if "late" not in not_wanted else []

    fleet = Fleet([Grades("early", naps)], find_more=find_more)
    outcomes = run(fleet, jobs(40))
    assert set(who(outcomes)) == {"early", "late"}
    assert {"early"} in asked
    fleet.close()
    assert late.closed.is_set()


def test_a_silent_place_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(dispatch, "_CHECK_LIMIT_S", 0.2)
    over = threading.Event()

    class Silent(Grades):
        def check_alive(self) -> None:
            over.wait(20)

    silent = Silent("silent", lambda place, instance_id: over.wait(20) and None)
    outcomes = run(Fleet([silent, Grades("b", naps)]), jobs(4))
    over.set()
    assert who(outcomes) == {"b": 4}


def test_a_single_place_that_hangs_is_asked_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_CHECK_LIMIT_S", 0.1)
    over = threading.Event()

    class Hangs(Grades):
        def check_alive(self) -> None:
            over.wait(20)

    with pytest.raises(EngineUnavailableError, match="hangs: did not end within"):
        run(Fleet([Hangs("hangs", lambda place, instance_id: over.wait(20) and None)]), jobs(3), limit_s=0.3)
    over.set()


def test_the_digest_of_an_image_is_the_one_graded_on_or_the_only_one() -> None:
    def of(name: str) -> Instance:
        return replace(INSTANCE, environment=InstanceEnvironment(image=name))

    class Other(Grades):
        def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
            return {name: f"other {found}" for name, found in super().find_images(names).items()}

    single = Fleet([Grades("a", has="red")])
    assert (single.image_digest(of("red")), single.image_digest(of("blue"))) == ("id of red", None)
    run(single, jobs(1))  # what is graded meanwhile changes nothing
    assert (single.image_digest(of("red")), single.image_digest(of("blue"))) == ("id of red", None)
    fleet = Fleet([Grades("a", has="red green"), Other("b", has="green")])
    fleet.prepare([of("red"), of("green")])
    assert (fleet.image_digest(of("red")), fleet.image_digest(of("green"))) == ("id of red", None)
    ((job, _),) = [(job, None) for job in jobs(1, images=("green",))]
    outcomes = run(fleet, [job])
    place = "" if who(outcomes) == {"a": 1} else "other "
    assert fleet.image_digest(of("green")) == f"{place}id of green"
