"""The runs of `srl-swe compare`: train what is not trained, measure what is not measured, and give back the figures.

A run is a curriculum in a folder of its own, also where it has one stage. done.json, held-out.json and resolved.json
beside its stages say what need not be done again. Leaves out the options (`comparison_plan`) and what is made of the
figures.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from srl_swe.cli.comparison_plan import Plan, stages_of
from srl_swe.cli.curriculum import run_stages
from srl_swe.cli.train import train_by_command, training_examples
from srl_swe.errors import ConfigError, DataError, NoSignalError
from srl_swe.evaluation.held_out import HeldOutStep, answer_held_out, read_answers, write_answers
from srl_swe.evaluation.methods import START, MeasuredModel, Resolved, Spent
from srl_swe.files import write_atomically
from srl_swe.training.config import Method
from srl_swe.training.termination import Termination
from srl_swe.trajectories.store import read_steps
from srl_swe.types import Instance, StepExample

if TYPE_CHECKING:
    from srl_swe.training.trainer import TrainResult

_DONE = "done.json"
_HELD_OUT = "held-out.json"
_RESOLVED = "resolved.json"
_EVALUATION = "eval"


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedData:
    """What all methods have in common."""

    train_ids: frozenset[str]
    """Step examples that every method can train on."""
    held_out: tuple[StepExample, ...]
    copy_last_similarity: float
    instances: tuple[Instance, ...]
    """Where the models act; empty = nowhere."""


def read_shared_data(plan: Plan, console: Console) -> SharedData:
    """Choose the step examples once, so that no method leaves out what another one trains on.

    Raises:
        DataError: nothing is left.
    """
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.batches import select_usable
    from srl_swe.training.validation import copy_last_similarity

    config, domain = plan.common.train, software_engineering(plan.common.prompts)
    policy = _load_policy(plan, Path(config.model))
    given, _ = training_examples(plan.common)
    with console.status("measuring prompts"):
        usable, held_out = (
            select_usable(
                examples, policy=policy, domain=domain, config=config, needs_target=target, on_example=lambda: None
            )
            for examples, target in (
                (given, plan.has_sft),
                (list(read_steps(Path(config.data), "validation")), False),
            )
        )
    for part, found in (("training", usable), ("held-out", held_out)):
        dropped = ", ".join(f"{count} {reason}" for reason, count in found.dropped.items() if count)
        console.print(
            f"{part}: {len(found.examples)} step examples for every method (dropped: {dropped or 'none'})",
            highlight=False,
            soft_wrap=True,
        )
    return SharedData(
        train_ids=frozenset(example.example_id for example in usable.examples),
        held_out=held_out.examples,
        copy_last_similarity=copy_last_similarity(held_out.examples, domain),
        instances=_acted_on(plan, {example.instance_id for example in given}, console),
    )


def run_all(plan: Plan, data: SharedData, termination: Termination, console: Console) -> list[MeasuredModel] | None:
    """Return the starting model and the final ones; None where SIGTERM ended a run. Seed by seed, so that what is there
    after an interruption compares all methods."""
    start = Path(plan.common.train.model)
    measured = [_measure(plan, data, START, None, start, plan.output / START, (), console)]
    jobs = [(method, seed) for seed in plan.seeds for method in plan.methods]
    for number, (method, seed) in enumerate(jobs, 1):
        folder = plan.run_folder(method, seed)
        where = f"run {number} of {len(jobs)}: {method}, seed {seed}"
        stages = _read_json(folder / _DONE)
        if stages is None:
            console.print(where, style="bold", highlight=False)
            stages = _train(plan, data, method, seed, termination)
            if stages is None:
                return None
            write_atomically(folder / _DONE, json.dumps(stages, indent=1) + "\n")
        else:
            console.print(f"{where}: trained before", highlight=False)
        measured.append(_measure(plan, data, method, seed, folder / "last", folder, stages, console))
    return measured


def _train(
    plan: Plan, data: SharedData, method: str, seed: int, termination: Termination
) -> list[dict[str, Any]] | None:
    """Run or go on with all stages; return what each took, or None where SIGTERM came."""
    taken: list[dict[str, Any]] = []
    terminated = False

    def run_stage(stage: Method, model: Path, output: Path) -> "TrainResult":
        nonlocal terminated
        command = plan.stage_command(method, stage, seed, model, output)
        try:
            result = train_by_command(command, termination, only=None if stage == "rlvr" else data.train_ids)
        except NoSignalError as error:
            # An outcome of the method, not a failure of the comparison: its model is measured as it is.
            print(f"note: {error}")
            result = _without_signal(output)
        terminated = result.ending == "terminated"
        if not terminated:
            taken.append({"method": stage, "ending": result.ending, **asdict(_spent(output))})
        return result

    run_stages(stages_of(method), Path(plan.common.train.model), plan.run_folder(method, seed), run_stage)
    return None if terminated else taken


def _without_signal(output: Path) -> "TrainResult":
    from srl_swe.training.checkpoint import load_state
    from srl_swe.training.trainer import TrainResult

    return TrainResult(
        output=output,
        iterations=load_state(output / "last").iteration,
        initial_reward=None,
        best_reward=None,
        best_iteration=None,
        best_model=None,
        last_model=output / "last",
        ending="flat",
    )


def _spent(output: Path) -> Spent:
    from srl_swe.training.checkpoint import load_state
    from srl_swe.training.metrics import METRICS_FILE

    state = load_state(output / "last")
    lines = [json.loads(line) for line in (output / METRICS_FILE).read_text("utf-8").splitlines()]
    return Spent(
        iterations=state.iteration,
        trained_tokens=state.trained_tokens,
        completion_tokens=state.completion_tokens,
        tree_tokens=state.tree_tokens,
        seconds=round(sum(value for line in lines for key, value in line.items() if key.startswith("time/")), 3),
    )


def _measure(
    plan: Plan,
    data: SharedData,
    method: str,
    seed: int | None,
    model: Path,
    folder: Path,
    stages: Sequence[dict[str, Any]],
    console: Console,
) -> MeasuredModel:
    spent = Spent()
    for stage in stages:
        spent = spent.plus(Spent(**{name: value for name, value in stage.items() if name not in ("method", "ending")}))
    return MeasuredModel(
        method=method,
        seed=seed,
        steps=_held_out_steps(plan, data, model, folder, console),
        spent=spent,
        endings=tuple(stage["ending"] for stage in stages),
        resolved=_act(plan, data, model, folder, console) if data.instances else None,
    )


def _held_out_steps(
    plan: Plan, data: SharedData, model: Path, folder: Path, console: Console
) -> tuple[HeldOutStep, ...]:
    from rich.progress import Progress

    from srl_swe.software_engineering import software_engineering

    path = folder / _HELD_OUT
    steps = read_answers(path)
    if steps is None:
        policy = _load_policy(plan, model)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("held-out steps", total=len(data.held_out))
            steps = answer_held_out(
                data.held_out,
                policy=policy,
                domain=software_engineering(plan.common.prompts),
                config=plan.common.train,
                on_step=lambda: progress.advance(bar),
            )
        write_answers(path, steps, {"model": str(model)})
    return steps


def _act(plan: Plan, data: SharedData, model: Path, folder: Path, console: Console) -> Resolved:
    """Let a model act on the instances, as `srl-swe eval` does, and have its patches judged.

    Raises:
        DataError: infrastructure failures left some without a verdict.
    """
    from srl_swe.cli.eval.evaluate import EvalConfig, run_evaluation
    from srl_swe.evaluation.agent_config import AgentConfig

    path = folder / _RESOLVED
    found = _read_json(path)
    if found is not None:
        return Resolved(**found)
    train = plan.common.train
    config = EvalConfig(
        instances=plan.acts_on,
        model=str(model),
        output=folder / _EVALUATION,
        dtype=train.dtype,
        agent=AgentConfig(
            max_completion_tokens=train.max_completion_tokens,
            **{
                name: getattr(train.episodes, name)
                for name in (
                    *("max_steps", "max_malformed", "command_timeout_s", "episode_limit_s", "start_limit_s"),
                    *("infrastructure_attempts", "max_parallel"),
                )
            },
        ),
    )
    [summary] = run_evaluation(config, data.instances, data.instances, console)
    resolved = Resolved(
        num_resolved=summary.num_resolved, num_instances=summary.num_instances, num_invalid=summary.num_invalid
    )
    if summary.complete:
        write_atomically(path, json.dumps(asdict(resolved)) + "\n")
    return resolved


def _acted_on(plan: Plan, trained_on: set[str], console: Console) -> tuple[Instance, ...]:
    path = plan.acts_on
    if path is None:
        if plan.common.instances is not None:
            console.print("note: no resolve rate, as rlvr trains on --instances; give --validation-instances FILE")
        return ()
    from srl_swe.environments.instances import load_instances

    if plan.plays_on is not None:
        trained_on = trained_on | {instance.instance_id for instance in load_instances(plan.plays_on)}
    given = load_instances(path)
    kept = tuple(instance for instance in given if instance.instance_id not in trained_on)
    if not kept:
        raise ConfigError(f"all {len(given)} instances of {path} are trained on: a resolve rate needs others")
    if len(kept) < len(given):
        console.print(
            f"resolve rate: {len(kept)} of {len(given)} instances; the others are trained on", highlight=False
        )
    return kept


def _load_policy(plan: Plan, model: Path) -> Any:
    import torch
    from transformers.utils import logging as transformers_logging

    from srl_swe.training.policy import Policy

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = plan.common.train
    if config.threads:
        torch.set_num_threads(config.threads)
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu"
    return Policy.from_pretrained(model, compute_dtype=getattr(torch, config.dtype), device=device)


def _read_json(path: Path) -> Any:
    """Return what a file of ours holds; None where there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); delete it, and the same command makes it again") from error
