"""What is said of one step: by hand-made results, without a container."""

from dataclasses import replace

import pytest

from srl_swe.curation.replay import ReplayConfig
from srl_swe.curation.replay_steps import judge_step, shell_kind
from srl_swe.errors import ConfigError
from srl_swe.types import CommandResult, Step, Trajectory

ENDED = CommandResult(output="a\nb\n", exit_code=0, duration_s=1.0)
AT_LIMIT = replace(ENDED, exit_code=None, timed_out=True, shell_replaced=True)
OUR_NOTE = "a\n[ended at the time limit of 5 s; its output up to then is above]"
MINI_NOTE = "The command was ended by the time limit."


def judged(observation: str, exit_code: int | None, result: CommandResult) -> tuple[str, str]:
    step = Step(thought="", action="make", observation=observation, exit_code=exit_code)
    outcome = judge_step(3, step, result, timeout_s=90)
    assert (outcome.index, outcome.recorded_exit_code, outcome.exit_code) == (3, exit_code, result.exit_code)
    assert bool(outcome.reason) == (outcome.status != "reproduced")
    return outcome.status, outcome.reason


@pytest.mark.parametrize(
    ("observation", "exit_code", "result", "status", "reason"),
    [
        ("a\nb", 0, ENDED, "reproduced", ""),
        ("a\nb", None, ENDED, "reproduced", ""),
        ("a\nb", 0, replace(ENDED, exit_code=1), "differs", "exit code 0 was recorded, it is 1 now"),
        ("a\nc", 0, ENDED, "differs", "the observation differs"),
        # Both at the limit, ours or a scaffold's: what came until then is compared as far as both go.
        ("a\nb", 124, AT_LIMIT, "reproduced", ""),
        ("a\nb\nc", 124, AT_LIMIT, "reproduced", ""),
        ("", 124, AT_LIMIT, "reproduced", ""),
        ("x\nb\nc", 124, AT_LIMIT, "differs", "the output until the time limit differs"),
        (OUR_NOTE, None, AT_LIMIT, "reproduced", ""),
        (MINI_NOTE, None, AT_LIMIT, "reproduced", ""),
        # One at the limit.
        ("a\nb", 0, AT_LIMIT, "failed", "the time limit of 90 s was reached"),
        ("a\nb", None, AT_LIMIT, "failed", "the time limit of 90 s was reached"),
        ("a", 124, ENDED, "differs", "the recorded command reached its time limit"),
        (OUR_NOTE, None, ENDED, "differs", "the recorded command reached its time limit"),
        # `timeout 10 make` ends with that exit code too.
        ("a\nb", 124, replace(ENDED, exit_code=124), "reproduced", ""),
        # The shell.
        ("a\nb", 3, replace(ENDED, exit_code=3, shell_replaced=True), "reproduced", ""),
        ("a\nb", 0, replace(ENDED, exit_code=137, shell_replaced=True), "failed", "the shell died"),
        ("a\nb", None, replace(ENDED, exit_code=None, shell_replaced=True), "failed", "the shell died"),
        ("a\nb", 0, replace(ENDED, ended_by="disk"), "failed", "every process was ended: disk"),
    ],
)
def test_a_step_is_judged(
    observation: str, exit_code: int | None, result: CommandResult, status: str, reason: str
) -> None:
    found = judged(observation, exit_code, result)
    assert found[0] == status and found[1].startswith(reason), found


def test_the_shell_depends_on_who_recorded() -> None:
    steps = (Step(thought="", action="ls", observation="no\n[exit code 2]", exit_code=2),)
    ours = Trajectory(
        trajectory_id="t", instance_id="a__b-1", problem_statement="p", steps=steps, patch="", source="mini_swe_agent",
        model="", resolved=None,
    )  # fmt: skip
    assert shell_kind(ours) == "persistent"
    assert shell_kind(replace(ours, steps=(replace(steps[0], observation="no\n"),))) == "fresh"
    assert shell_kind(replace(ours, source="swe_smith")) == "persistent"


@pytest.mark.parametrize(
    "wrong",
    [{"max_parallel": 0}, {"infrastructure_attempts": 0}, {"command_timeout_s": 0.0}, {"image_limit_s": -1.0},
     {"variables": ("A",)}, {"variables": ("1A=2",)}, {"same_paths": ("/a",)}, {"same_paths": ("a=/b",)}],
)  # fmt: skip
def test_options_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ReplayConfig(**wrong)  # type: ignore[arg-type]
