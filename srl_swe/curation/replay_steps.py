"""One trajectory is replayed: its commands in a fresh container, each compared with what was recorded, then the patch.

Leaves out what noise is (`normalise`), many trajectories and retries (`replay`).
"""

import contextlib
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from srl_swe.curation.normalise import Likeness, compare, difference, normalised, patch_difference, same_patch
from srl_swe.curation.replay_outcomes import PatchOutcome, ShellKind, StepOutcome, StepStatus, TrajectoryOutcome
from srl_swe.environments.limits import ContainerLimits
from srl_swe.trajectories.actions import SUBMIT, clean_text
from srl_swe.types import CommandResult, Instance, InstanceEnvironment, Step, Trajectory

if TYPE_CHECKING:
    from srl_swe.environments.engine import Engine
    from srl_swe.environments.sessions import Session

Capability = Literal["CHOWN", "DAC_OVERRIDE", "FOWNER"]
MAX_OUTPUT_BYTES = 4 << 20
"""Replayed outputs are compared whole, recorded ones may have lost their middle."""

_TIMEOUT_EXIT_CODE = 124
"""coreutils `timeout`, by which scaffolds end a command at their limit."""
_LIMIT_NOTES = ("[ended at the time limit of ", "The command was ended by the time limit.")
"""What our environment and the reader of mini-swe-agent write where a command hit the limit."""


def shell_kind(trajectory: Trajectory) -> ShellKind:
    """Tell in what kind of shell the commands of a trajectory were run.

    mini-swe-agent runs each in a new shell, the other scaffolds and our environment in one that persists. Our own
    records have mini-swe-agent's form; they are known by what the environment writes below a failure.
    """
    if trajectory.source != "mini_swe_agent":
        return "persistent"
    ours = any(
        step.exit_code and step.observation.rstrip().endswith(f"[exit code {step.exit_code}]")
        for step in trajectory.steps
    )
    return "persistent" if ours else "fresh"


def replay_trajectory(
    trajectory: Trajectory,
    instance: Instance,
    engine: "Engine",
    *,
    shell: ShellKind,
    command_timeout_s: float,
    variables: Sequence[str] = (),
    same_paths: Sequence[str] = (),
    capabilities: Sequence[Capability] = (),
    grade_patch: bool,
    limits: ContainerLimits,
    say: Callable[[str], None] = lambda stage: None,
) -> TrajectoryOutcome:
    """Run a trajectory's commands, compare, take the patch, and have it judged by the instance's tests.

    `variables` ("NAME=VALUE") are set in every shell; `same_paths` ("RECORDED=HERE") are the places of folders that lay
    elsewhere when the trajectory was recorded; `capabilities` are root's then.

    Raises:
        ContainerError: the infrastructure failed.
    """
    from srl_swe.environments.grading import grade
    from srl_swe.environments.worktree import extract_patch

    started = time.monotonic()
    say("container")
    environment = _with_variables(instance.environment, variables)
    hint = f"replay-{instance.instance_id}"
    with contextlib.closing(_open(engine, environment, limits, capabilities, hint)) as session:
        steps = []
        for index, step in enumerate(trajectory.steps):
            if step.action.strip() != SUBMIT:
                say(f"step {index + 1} of {len(trajectory.steps)}")
                result = _run(session, step.action, shell, command_timeout_s)
                steps.append(judge_step(index, _moved(step, same_paths), result, timeout_s=command_timeout_s))
        session.container.unwatch_disk()
        extracted = extract_patch(session.container, instance.environment.workdir, session.base)
    say("tests")
    verdict = grade(engine, instance, extracted.patch, limits=limits) if grade_patch else None
    return TrajectoryOutcome(
        trajectory_id=trajectory.trajectory_id,
        instance_id=trajectory.instance_id,
        source=trajectory.source,
        shell=shell,
        steps=tuple(steps),
        patch=PatchOutcome(
            equal=same_patch(trajectory.patch, extracted.patch),
            difference=patch_difference(trajectory.patch, extracted.patch),
            problem=extracted.problem,
        ),
        verdict=verdict.status if verdict else None,
        verdict_reason=verdict.reason if verdict else "",
        duration_s=round(time.monotonic() - started, 3),
    )


def _open(
    engine: "Engine",
    environment: InstanceEnvironment,
    limits: ContainerLimits,
    capabilities: Sequence[Capability],
    name_hint: str,
) -> "Session":
    """Open a session as an episode has it, but for the capabilities."""
    from srl_swe.environments.container import Container
    from srl_swe.environments.images import ensure_image
    from srl_swe.environments.preparation import prepare
    from srl_swe.environments.sessions import enter, open_session

    if not capabilities:
        return open_session(engine, environment, limits=limits, keep_prepared=False, name_hint=name_hint)
    image = ensure_image(engine, environment)
    container = Container.start(engine, image, limits=limits, name_hint=name_hint, capabilities=capabilities)
    try:
        return enter(container, environment, prepare(container, environment, limits.user))
    except BaseException:
        container.close()
        raise


def _with_variables(environment: InstanceEnvironment, variables: Sequence[str]) -> InstanceEnvironment:
    """Return the environment with shells that export the variables before they are activated."""
    exports = "".join(f"export {shlex.quote(variable)}\n" for variable in variables)
    return replace(environment, activate=exports + environment.activate)


def _moved(step: Step, same_paths: Sequence[str]) -> Step:
    """Return the step with its observation as it would be if the recorded folders lay where they lie here."""
    observation = step.observation
    for pair in same_paths:
        recorded, _, here = pair.partition("=")
        observation = observation.replace(recorded, here)
    return replace(step, observation=observation)


def _run(session: "Session", action: str, shell: ShellKind, timeout_s: float) -> CommandResult:
    """Run an action as its scaffold did."""
    if shell == "fresh":
        # A subshell that becomes a new bash: neither directory nor variables nor `exit` reach the session's own shell.
        # In a process group of its own it is spared the SIGINT that comes before the end at the time limit: a program
        # might end in good order, and the next command of the action begin.
        directory = shlex.quote(session.environment.workdir)
        action = f"(cd -- {directory} && exec setsid --wait bash -c {shlex.quote(action)})"
    result = session.shell.run(action, timeout_s=timeout_s, max_output_bytes=MAX_OUTPUT_BYTES)
    if session.egress is not None and not session.egress.is_alive():
        session.egress.reopen()
    return result


def judge_step(index: int, step: Step, result: CommandResult, *, timeout_s: float) -> StepOutcome:
    """Compare what a command did with what was recorded of it."""
    observed = clean_text(result.output)
    likeness = compare(step.observation, observed)
    status, reason = _judged(step, result, observed, likeness, timeout_s)
    return StepOutcome(
        index=index,
        status=status,
        reason=reason,
        recorded_exit_code=step.exit_code,
        exit_code=result.exit_code,
        duration_s=round(result.duration_s, 3),
        timed_out=result.timed_out,
        reordered=status == "reproduced" and likeness == "reordered",
        difference="" if status == "reproduced" else difference(step.observation, observed),
    )


def _judged(
    step: Step, result: CommandResult, observed: str, likeness: Likeness, timeout_s: float
) -> tuple[StepStatus, str]:
    """Return the status of a step, and why it is not reproduced."""
    if result.ended_by:
        return "failed", f"every process was ended: {result.ended_by}"
    if result.timed_out:
        if not _hit_limit(step):
            return "failed", f"the time limit of {timeout_s:g} s was reached; the recorded command ended by itself"
        alike = _begin_alike(step.observation, observed)
        return ("reproduced", "") if alike else ("differs", "the output until the time limit differs")
    if result.shell_replaced and (result.exit_code is None or result.exit_code != step.exit_code):
        return "failed", "the shell died"
    if _hit_limit(step) and result.exit_code != step.exit_code:
        return (
            "differs",
            f"the recorded command reached its time limit, the replayed one ended by itself: {result.exit_code}",
        )
    if step.exit_code is not None and result.exit_code != step.exit_code:
        return "differs", f"exit code {step.exit_code} was recorded, it is {result.exit_code} now"
    return ("differs", "the observation differs") if likeness == "different" else ("reproduced", "")


def _hit_limit(step: Step) -> bool:
    if step.exit_code == _TIMEOUT_EXIT_CODE:
        return True
    return step.exit_code is None and any(note in step.observation[-400:] for note in _LIMIT_NOTES)


def _begin_alike(recorded: str, observed: str) -> bool:
    """Tell whether one of two outputs that a time limit ended is the beginning of the other, but for its last line."""
    notes = "|".join(re.escape(note) for note in _LIMIT_NOTES)
    shorter, longer = sorted(
        (normalised(re.split(notes, text)[0]).split("\n") for text in (recorded, observed)), key=len
    )
    return shorter[:-1] == longer[: len(shorter) - 1]
