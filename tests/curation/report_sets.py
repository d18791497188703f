"""Small sets that the tests of the report look at, and what belongs beside them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from srl_swe.curation.profile_file import SCHEMA_VERSION, ProfileHeader, StepProfile
from srl_swe.curation.replay_outcomes import PatchOutcome, ReplayFile, StepOutcome, TrajectoryOutcome
from srl_swe.trajectories.store import PROFILE, read_manifest, write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory


def trajectory(
    trajectory_id: str,
    actions: tuple[str, ...],
    *,
    resolved: bool | None = True,
    source: str = "swe_smith",
    problem_statement: str = "It fails.",
    targets: tuple[int, ...] | None = None,
) -> CompiledTrajectory:
    steps = tuple(
        Step(thought="" if index == 0 else "Look.", action=action, observation=f"{index}\n", exit_code=0)
        for index, action in enumerate(actions)
    )
    made = Trajectory(
        trajectory_id=trajectory_id,
        instance_id=trajectory_id.split(":")[0],
        problem_statement=problem_statement,
        steps=steps,
        patch="",
        source=source,
        model="m",
        resolved=resolved,
    )
    return CompiledTrajectory(trajectory=made, targets=tuple(range(len(actions))) if targets is None else targets)


HAND_MADE = (
    trajectory("o__a-1:0", ("ls", "cat a", "submit")),
    trajectory("o__a-2:0", ("ls", "submit"), resolved=False),
    trajectory("o__b-1:0", ("cat b", "submit"), resolved=None, source="elsewhere"),
)
"""Two trajectories for train, one for validation."""


def write_set(folder: Path, *, validation: frozenset[str] = frozenset({"o__b-1"}), **header: object) -> Path:
    """Write the hand-made set."""
    write_steps(HAND_MADE, folder, header=header, choose_validation=lambda ids: validation)
    return folder


def write_replay(folder: Path, *, reason: str = "exit code 1, not 0") -> None:
    """Say that the first trajectory was reproduced but for one step, and the second one broke off."""
    file = ReplayFile(folder)
    steps = (
        StepOutcome(index=0, status="reproduced"),
        StepOutcome(index=1, status="differs", reason=reason),
    )
    ids = [compiled.trajectory.trajectory_id for compiled in HAND_MADE]
    common: Mapping[str, str] = {"source": "swe_smith", "shell": "persistent"}
    whole = {"steps": steps, "patch": PatchOutcome(equal=True), "verdict": "resolved"}
    file.append("k", TrajectoryOutcome(trajectory_id=ids[0], instance_id="o__a-1", **common, **whole))  # type: ignore[arg-type]
    broken = {"steps": steps[:1], "patch": None, "failure": "engine gone"}
    file.append("k", TrajectoryOutcome(trajectory_id=ids[1], instance_id="o__a-2", **common, **broken))  # type: ignore[arg-type]


def write_profile(folder: Path, *, model: str = "models/small", content_hash: str | None = None) -> None:
    """Profile three steps of train: rewards that vary, that are equal, and a prompt that is too long."""
    header = ProfileHeader(
        content_hash=content_hash or str(read_manifest(folder)["content_hash"]),
        part="train",
        model=model,
        model_fingerprint="f",
        samples=4,
        temperature=1.0,
        seed=0,
        max_prompt_tokens=100,
        max_completion_tokens=10,
        dtype="float32",
        prompts={},
    )
    steps = (
        StepProfile(
            example_id="o__a-1:0#0", prompt_tokens=9, rewards=(0.5, 0.7, -1.0, 0.6), well_formed=3, similarity_std=0.08
        ),
        StepProfile(example_id="o__a-1:0#1", prompt_tokens=9, rewards=(1.0, 1.0, 1.0, 1.0), well_formed=4),
        StepProfile(example_id="o__a-1:0#2", prompt_tokens=900, skipped="prompt_too_long"),
    )
    records = [{"schema_version": SCHEMA_VERSION, **asdict(header)}, *(step.as_record() for step in steps)]
    (folder / PROFILE).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
