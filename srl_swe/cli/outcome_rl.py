"""`srl-swe train --method rlvr`: instances instead of step examples, and the engine that their episodes run in."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from srl_swe.cli.launched import is_first
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.training.config import TrainConfig
from srl_swe.training.termination import Termination
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.types import Instance, Trajectory

if TYPE_CHECKING:
    from srl_swe.training.trainer import TrainResult


def check_options(config: TrainConfig, instances: Path | None, trajectories: Sequence[Path]) -> None:
    """Check that the options for instances and experts fit together.

    Raises:
        ConfigError: an option lacks the one that it needs.
    """
    if instances is None:
        raise ConfigError("method rlvr acts on instances: say which with --instances FILE (task rows, as for eval)")
    weight = config.episodes.similarity_weight
    if weight and not trajectories:
        raise ConfigError(
            f"similarity_weight = {weight} compares actions with an expert's: give --trajectories PATH, or leave it out"
        )
    if trajectories and not weight:
        raise ConfigError("trajectories are for --similarity-weight, which is 0: set it in (0, 1], or leave them out")


def train_by_outcome(
    config: TrainConfig,
    prompts: PromptLimits,
    *,
    instances: Path,
    validation_instances: Path | None,
    trajectories: Sequence[Path],
    termination: Termination,
) -> "TrainResult":
    """Read instances and experts, connect to the engine, and train."""
    from srl_swe.environments.connect import connect_engine
    from srl_swe.environments.instances import load_instances
    from srl_swe.environments.official_rules import require_rules

    played = load_instances(instances)
    held_out = load_instances(validation_instances) if validation_instances else []
    _check_apart(played, held_out)
    for instance in (*played, *held_out):
        require_rules(instance)
    experts = _read_experts(trajectories, {instance.instance_id for instance in played})
    if trajectories and is_first():
        print(f"{len(experts)} of {len(played)} instances have an expert trajectory")
    # Only now: a wrong path answers without loading torch.
    from srl_swe.software_engineering import (
        acting_in_containers,
        episode_starts,
        instances_hash,
        software_engineering,
        trained_limits,
    )
    from srl_swe.training.trainer import train

    selection = {
        "instances_hash": instances_hash(played),
        "validation_instances_hash": instances_hash(held_out),
        "experts_hash": hashlib.sha256(repr(sorted(experts.items())).encode("utf-8", "surrogatepass")).hexdigest(),
    }
    with connect_engine() as engine:
        return train(
            replace(config, data=str(instances)),
            episode_starts(played),
            episode_starts(held_out),
            software_engineering(chosen_limits(prompts, trained_limits(Path(config.model)))),
            acting=acting_in_containers([*played, *held_out], engine, config.episodes, experts=experts),
            selection=selection,
            termination=termination,
        )


def chosen_limits(given: PromptLimits, trained: PromptLimits) -> PromptLimits:
    """Return what prompts show: what was given, else the same as when the model was trained; say where they differ."""
    chosen = trained if given == PromptLimits() else given
    if given != trained and is_first():
        whose = "as the model was trained" if chosen == trained else f"but the model was trained with {trained}"
        print(f"note: prompts are made with {chosen}, {whose}")
    return chosen


def _check_apart(played: Sequence[Instance], held_out: Sequence[Instance]) -> None:
    both = sorted({one.instance_id for one in played} & {one.instance_id for one in held_out})
    if both:
        raise ConfigError(
            f"{len(both)} instances are for training and for validation, {both[0]} among them; nothing would be held "
            "out: take them out of one of the two files"
        )


def _read_experts(paths: Sequence[Path], instance_ids: set[str]) -> Mapping[str, Trajectory]:
    """Return the first trajectory of each instance that is not known to have failed.

    Raises:
        ConfigError: there is none for any of the instances.
    """
    experts: dict[str, Trajectory] = {}
    if not paths:
        return experts
    num_read = 0
    for trajectory in read_trajectories(paths, drops=DropCounter()):
        num_read += 1
        if trajectory.instance_id in instance_ids and trajectory.steps and trajectory.resolved is not False:
            experts.setdefault(trajectory.instance_id, trajectory)
    if not experts:
        raise ConfigError(
            f"none of the {num_read} trajectories in {', '.join(map(str, paths))} is for one of the "
            f"{len(instance_ids)} instances; leave out --trajectories and --similarity-weight, or give matching ones"
        )
    return experts
