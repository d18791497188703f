"""Filters, their counts, and the split by instance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.errors import ConfigError
from srl_swe.trajectories.formats import DropCounter
from srl_swe.trajectories.splits import split_by_instance
from srl_swe.trajectories.steps import StepFilter, compile_trajectories, step_examples
from srl_swe.types import HistoryPair, Step, StepExample, Trajectory


def compile_steps(trajectories: list[Trajectory], *, step_filter: StepFilter, drops: DropCounter) -> list[StepExample]:
    kept = compile_trajectories(trajectories, step_filter=step_filter, drops=drops)
    return [example for compiled in kept for example in step_examples(compiled)]


def trajectory(*actions: str, instance_id: str = "o__n-1", resolved: bool | None = True) -> Trajectory:
    steps = tuple(Step(thought=f"t{i}", action=a, observation=f"o{i}", exit_code=0) for i, a in enumerate(actions))
    return Trajectory(
        trajectory_id=f"{instance_id}:x",
        instance_id=instance_id,
        problem_statement="It fails.",
        steps=steps,
        patch="",
        source="src",
        model="",
        resolved=resolved,
    )


def test_an_example_holds_everything_before_its_step() -> None:
    drops = DropCounter()
    examples = list(compile_steps([trajectory("a", "b", "submit")], step_filter=StepFilter(), drops=drops))
    assert [example.expert_action for example in examples] == ["a", "b", "submit"]
    assert examples[0].history == ()
    assert examples[2].history == (HistoryPair(action="a", observation="o0"), HistoryPair(action="b", observation="o1"))
    assert examples[2].example_id == "o__n-1:x#2"
    assert examples[2].expert_thought == "t2"
    assert drops.total == 0


def test_repeats_long_actions_and_the_last_step_are_no_targets_but_stay_in_histories() -> None:
    drops = DropCounter()
    step_filter = StepFilter(last_step_is_target=False, max_action_chars=3)
    examples = list(compile_steps([trajectory("a", "a", "long", "b", "z")], step_filter=step_filter, drops=drops))
    assert [example.step_index for example in examples] == [0, 3]
    assert [pair.action for pair in examples[1].history] == ["a", "a", "long"]
    assert drops.to_dict() == {"src": {"action_too_long": 1, "last_step": 1, "repeated_action": 1}}


@pytest.mark.parametrize(
    ("step_filter", "reason"),
    [
        (StepFilter(resolved_only=True), "not_resolved"),
        (StepFilter(max_steps=1), "too_many_steps"),
        (StepFilter(exclude_instances=frozenset({"o__n-1"})), "excluded_instance"),
        (StepFilter(exclude_repos=frozenset({"O/n"})), "excluded_repo"),
    ],
)
def test_dropped_trajectories_are_counted(step_filter: StepFilter, reason: str) -> None:
    drops = DropCounter()
    assert not list(compile_steps([trajectory("a", "b", resolved=False)], step_filter=step_filter, drops=drops))
    assert drops.to_dict() == {"src": {reason: 1}}
    assert drops.num_rows == 1


def test_a_repository_is_not_taken_for_one_whose_name_it_begins() -> None:
    step_filter = StepFilter(exclude_repos=frozenset({"o/n"}))
    kept = compile_steps([trajectory("a", instance_id="o__name-1")], step_filter=step_filter, drops=DropCounter())
    assert len(list(kept)) == 1


def test_unknown_outcomes_are_kept_and_counted_unless_refused() -> None:
    drops = DropCounter()
    unknown = trajectory("a", resolved=None)
    assert len(list(compile_steps([unknown], step_filter=StepFilter(resolved_only=True), drops=drops))) == 1
    assert drops.to_dict() == {"src": {"kept_unknown_outcome": 1}}
    assert drops.total == 0
    assert not list(compile_steps([unknown], step_filter=StepFilter(known_outcome_only=True), drops=drops))
    assert drops.total == 1


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_steps is 0"):
        StepFilter(max_steps=0)


@given(st.sets(st.text(max_size=6), min_size=2, max_size=30), st.floats(0.01, 0.9), st.integers(0, 5), st.randoms())
def test_the_split_depends_on_ids_and_seed_alone(ids: set[str], share: float, seed: int, random: object) -> None:
    ids = {instance_id.encode("utf-8", "replace").decode() for instance_id in ids} | {"one", "two"}
    listed = sorted(ids)
    random.shuffle(listed)  # type: ignore[attr-defined]
    held_out = split_by_instance(listed + listed[:1], validation_share=share, seed=seed)
    assert held_out == split_by_instance(sorted(ids), validation_share=share, seed=seed)
    assert 0 < len(held_out) < len(ids)
    assert held_out <= ids


def test_the_split_by_number_and_by_share() -> None:
    ids = [f"i{n}" for n in range(1000)]
    assert len(split_by_instance(ids, num_validation=30)) == 30
    assert 60 < len(split_by_instance(ids, validation_share=0.1)) < 140
    assert split_by_instance(ids, num_validation=30, seed=1) != split_by_instance(ids, num_validation=30, seed=2)
    assert split_by_instance(ids, validation_share=0) == frozenset()


@pytest.mark.parametrize(
    "sizes", [{}, {"validation_share": 0.1, "num_validation": 1}, {"validation_share": 1.0}, {"num_validation": 3}]
)
def test_wrong_sizes_are_refused(sizes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        split_by_instance(["a", "b", "c"], **sizes)  # type: ignore[arg-type]
