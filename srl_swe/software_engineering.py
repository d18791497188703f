"""The domain that the project is about: prompts, rewards and episodes of software engineering, for training."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym

from srl_swe.environments.engine import Engine
from srl_swe.environments.images import ensure_image
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.preparation import ensure_prepared
from srl_swe.environments.snapshots import Snapshot
from srl_swe.environments.swe_env import SUBMIT, SWEEnv
from srl_swe.errors import DataError
from srl_swe.prompts import PromptLimits, answer_malformed, parse, render, write
from srl_swe.rewards import similarity
from srl_swe.training.domain import OPTIONS_FILE, Acting, Domain
from srl_swe.training.episode_config import EpisodeConfig
from srl_swe.types import Instance, Message, StepExample, Trajectory


def software_engineering(limits: PromptLimits) -> Domain:
    """Return the domain with this much context in its prompts."""

    def render_example(example: StepExample) -> list[Message]:
        return render(example.problem_statement, example.history, limits)

    return Domain(render=render_example, parse=parse, write=write, score=similarity, options=asdict(limits))


def episode_starts(instances: Sequence[Instance]) -> list[StepExample]:
    """Return the context at the start of an episode on each instance; there is no expert action in it."""
    return [
        StepExample(
            example_id=instance.instance_id,
            instance_id=instance.instance_id,
            trajectory_id="",
            step_index=0,
            problem_statement=instance.problem_statement,
            history=(),
            expert_thought="",
            expert_action="",
        )
        for instance in instances
    ]


def instances_hash(instances: Sequence[Instance]) -> str:
    """Return a hash over every field of the instances, their tests included, and their order."""
    return hashlib.sha256(repr(tuple(instances)).encode("utf-8", "surrogatepass")).hexdigest()


def acting_in_containers(
    instances: Sequence[Instance],
    engine: Engine,
    config: EpisodeConfig,
    *,
    experts: Mapping[str, Trajectory] | None = None,
) -> Acting:
    """Return how episodes are played on these instances: commands in a container each, judged at the end by the tests.

    `experts` are trajectories by instance id; with a `similarity_weight` above 0 they have that share of the reward of
    their instance. On the others the verdict has all of it.
    """
    by_id = {instance.instance_id: instance for instance in instances}
    limits = ContainerLimits()

    def environment_of(instance: Instance) -> SWEEnv:
        instance_id = instance.instance_id
        expert = (experts or {}).get(instance_id) if config.similarity_weight else None
        return SWEEnv(
            instances=[instance],
            trajectories=[expert] if expert else (),
            similarity_weight=config.similarity_weight if expert else None,
            command_timeout_s=config.command_timeout_s,
            # Steps and time are counted by whoever plays, who has the work tree judged at every limit.
            max_steps=None,
            episode_timeout_s=float("inf"),
            limits=limits,
            num_warm=0,
            engine=engine,
        )

    def open_environment(instance_id: str) -> SWEEnv:
        instance = by_id[instance_id]
        # Made once and kept: an instance is played many times.
        ensure_image(engine, instance.environment)
        ensure_prepared(engine, instance.environment, limits.user)
        environment = environment_of(instance)
        try:
            environment.reset()
        except BaseException:
            environment.close()
            raise
        return environment

    def restore(snapshot: Snapshot) -> SWEEnv:
        environment = environment_of(snapshot.instance)
        try:
            environment.restore(snapshot)
        except BaseException:
            environment.close()
            raise
        return environment

    return Acting(
        open_environment=open_environment,
        last_action=SUBMIT,
        judge=_judge,
        snapshot=_snapshot,
        restore=restore,
        answer_malformed=lambda reason, cut_off: answer_malformed(reason, cut_off=cut_off),
    )


def _snapshot(environment: gym.Env[str, str]) -> Snapshot:
    assert isinstance(environment, SWEEnv)
    return environment.snapshot()


def _judge(environment: gym.Env[str, str]) -> tuple[str, float, bool, bool, dict[str, Any]]:
    assert isinstance(environment, SWEEnv)
    return environment.judge()


def trained_limits(
    model: Path, *, history: int | Literal["all"] | None = None, max_observation_chars: int | None = None
) -> PromptLimits:
    """Return the limits that a model was trained with, so that it acts on prompts like those it knows.

    A model that was not trained here has none, and gets the defaults. What is given here wins.

    Raises:
        DataError: the record in the model's folder is damaged.
    """
    limits = PromptLimits()
    path = model / OPTIONS_FILE
    if path.is_file():
        try:
            limits = PromptLimits(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{path}: expected the options of the prompts, found {error}; delete it or train again"
            ) from error
    if history is not None:
        limits = replace(limits, history=None if history == "all" else history)
    if max_observation_chars is not None:
        limits = replace(limits, max_observation_chars=max_observation_chars)
    return limits
