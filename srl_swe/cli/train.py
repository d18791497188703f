"""`srl-swe train`: SFT and SRL on a compiled set of step examples, RLVR on instances, and curricula of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from srl_swe.cli.curriculum import parse_stages, run_stages, stage_words
from srl_swe.cli.launched import is_first, is_one_of_several
from srl_swe.cli.outcome_rl import check_options, train_by_outcome
from srl_swe.cli.recipes import expand_recipe
from srl_swe.curation.pivots import PivotRule, select_pivots
from srl_swe.curation.profile_file import Profile, fingerprint_model, read_profile
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.training.config import Method, TrainConfig
from srl_swe.training.episode_config import EpisodeConfig
from srl_swe.training.termination import Terminated, Termination
from srl_swe.trajectories.store import read_manifest, read_steps
from srl_swe.types import StepExample

if TYPE_CHECKING:
    from srl_swe.training.trainer import TrainResult


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCommand:
    """Train a model on step examples (sft, srl) or on instances (rlvr). Defaults are the paper's recipe (arXiv
    2510.25992) on a cluster's scale.

    srl-swe train --data steps/ --model MODEL --output runs/srl

    srl-swe train --method rlvr --init runs/srl/best --instances FILE --output runs/rlvr

    srl-swe train --curriculum srl,rlvr --data steps/ --instances FILE --model MODEL --output runs/both

    The run folder holds config.json, metrics.jsonl, checkpoints, `best` (on held-out steps) and `last`, both
    ordinary model folders. The same command goes on where it stopped, bit for bit on a CPU.
    """

    recipe: Path | None = None
    """TOML file with options, for example recipes/cpu-smoke.toml; what is given beside it wins."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    prompts: tyro.conf.OmitArgPrefixes[PromptLimits] = field(default_factory=PromptLimits)
    profile: Path | None = None
    """Train on pivots only: steps that this profile, written by `srl-swe data profile`, shows to be worth it."""
    pivots: tyro.conf.OmitArgPrefixes[PivotRule] = field(default_factory=PivotRule)
    instances: Path | None = None
    """rlvr: file of the instances to act on (.jsonl, .json, .parquet), as `srl-swe eval` reads them."""
    validation_instances: Path | None = None
    """rlvr: file of held-out instances; the model with the best mean reward on them is kept as best."""
    trajectories: tuple[Path, ...] = ()
    """rlvr: published expert runs on the instances, for similarity-weight; of each instance the first that is not known
    to have failed."""
    curriculum: str = ""
    """Methods to run one after the other, for example srl,rlvr or sft,srl,rlvr: each in a folder of its own below
    output, from the best model of the one before. Takes the place of method."""
    stage_options: tuple[str, ...] = ()
    """Options of one stage of a curriculum, for example sft.num-iterations=8 rlvr.max-steps=10; the others are for
    all."""

    def __post_init__(self) -> None:
        if self.curriculum:
            parse_stages(self.curriculum)
        elif self.stage_options:
            raise ConfigError("stage_options are for the stages of a curriculum: give --curriculum")
        if self.profile is None and self.pivots != PivotRule():
            raise ConfigError("min_profile_std and max_profile_mean choose among profiled steps: give --profile FILE")


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    words = with_recipe(arguments)
    command = parse_command(words)
    try:
        with Termination() as termination:
            if command.curriculum:
                _run_curriculum(command, words, termination)
            else:
                check_command(command)
                _report(command, train_by_command(command, termination))
    except Terminated:
        if is_one_of_several():
            return 1  # so that the launcher ends those that wait for this process
        # Before the first iteration or after the last.
        print("stopped by SIGTERM while there was nothing to save; the same command goes on")
    return 0


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Return the command line with the options of its recipe, where it names one, in front."""
    groups = (TrainConfig, EpisodeConfig, PromptLimits, PivotRule)
    known = {"profile", "instances", "validation_instances", "trajectories"}
    known |= {option.name for group in groups for option in fields(group)} - {"episodes"}
    return expand_recipe(arguments, known=known)


def parse_command(words: Sequence[str], *, prog: str = "srl-swe train") -> TrainCommand:
    """Read a command line without a recipe; `prog` is what its usage is called by. What is wrong ends the process."""
    return tyro.cli(TrainCommand, prog=prog, args=list(words))


def _run_curriculum(command: TrainCommand, words: Sequence[str], termination: Termination) -> None:
    if is_one_of_several():
        raise ConfigError("a curriculum runs in one process; run its stages one by one where several are needed")
    stages = parse_stages(command.curriculum)
    own_words = {stage: stage_words(words, stage, stages, command.stage_options) for stage in stages}
    # What is wrong with the last stage is said before the first one begins.
    for stage in stages:
        check_command(parse_command(own_words[stage]))

    def run_stage(stage: Method, model: Path, output: Path) -> "TrainResult":
        own = parse_command([*own_words[stage], "--model", str(model), "--output", str(output)])
        result = train_by_command(own, termination)
        _report(own, result)
        return result

    run_stages(stages, Path(command.train.model), command.train.output, run_stage)


def check_command(command: TrainCommand) -> None:
    """Check that the method has what it needs.

    Raises:
        ConfigError: an option lacks the one that it needs.
    """
    if command.train.method == "rlvr":
        check_options(command.train, command.instances, command.trajectories)
    elif not command.train.data:
        raise ConfigError("say what to train on: --data FOLDER, written by `srl-swe data compile`")


def train_by_command(
    command: TrainCommand, termination: Termination, *, only: Collection[str] | None = None
) -> "TrainResult":
    """Train by one method, as the checked command says; raises as `trainer.train` does.

    `only` are the ids of the step examples that may be trained on; None = all.
    """
    if command.train.method == "rlvr":
        assert command.instances is not None
        return train_by_outcome(
            command.train,
            command.prompts,
            instances=command.instances,
            validation_instances=command.validation_instances,
            trajectories=command.trajectories,
            termination=termination,
        )
    steps = Path(command.train.data)
    train_examples, selection = training_examples(command)
    if only is not None:
        train_examples = [example for example in train_examples if example.example_id in only]
    validation_examples = list(read_steps(steps, "validation"))
    history = read_manifest(steps).get("history")
    if history is not None and history != command.prompts.history:
        print(f"note: {steps} was compiled by the paper's rules, which show {history} pairs; give --history {history}")
    # Only now: the help and a wrong path answer without loading torch.
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.trainer import train

    return train(
        command.train,
        train_examples,
        validation_examples,
        software_engineering(command.prompts),
        selection=selection,
        termination=termination,
    )


def training_examples(command: TrainCommand) -> tuple[Sequence[StepExample], Mapping[str, object]]:
    """Return the step examples that the command chooses for training, and what the run writes down of the choice."""
    steps = Path(command.train.data)
    examples: Sequence[StepExample] = list(read_steps(steps, "train"))
    selection: Mapping[str, object] = {}
    if command.profile is not None:
        examples, selection = _select(command, command.profile, steps, examples)
    return examples, {**selection, "content_hash": read_manifest(steps)["content_hash"]}


def _report(command: TrainCommand, result: "TrainResult") -> None:
    if not is_first():
        return
    if result.ending == "terminated":
        print(f"stopped by SIGTERM after iteration {result.iterations}; the same command goes on")
        return
    if result.ending == "patience":
        print(f"ended after iteration {result.iterations}: {command.train.patience} validations without a better one")
    if result.initial_reward is not None and result.best_reward is not None:
        print(
            f"held-out mean reward: {result.initial_reward:.4f} before, {result.best_reward:.4f} at best "
            f"(iteration {result.best_iteration} of {result.iterations})"
        )
    print(f"models: {result.best_model or result.last_model} (best), {result.last_model} (last)")


def _select(
    command: TrainCommand, path: Path, steps: Path, examples: Sequence[StepExample]
) -> tuple[tuple[StepExample, ...], Mapping[str, object]]:
    """Keep the pivots, say how many, and return them with what the run writes down of the choice."""
    profile = read_profile(path)
    header = profile.header
    content_hash = read_manifest(steps)["content_hash"]
    if (header.content_hash, header.part) != (content_hash, "train"):
        raise ConfigError(
            f"{path} profiles part {header.part} of the set {header.content_hash[:12]}, but training is on part train "
            f"of {steps}, which is {str(content_hash)[:12]}; profile that set with `srl-swe data profile {steps}`"
        )
    pivots = select_pivots(examples, profile.steps, command.pivots)
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(pivots.dropped.items()))
    print(f"{path}: kept {len(pivots.examples)} of {len(examples)} step examples (dropped: {dropped or 'none'})")
    for mismatch in _mismatches(command, profile):
        print(f"note: the profile was made otherwise than this run samples: {mismatch}")
    return pivots.examples, {
        "profile": str(path),
        "profile_model": header.model_fingerprint,
        "min_profile_std": command.pivots.min_profile_std,
        "max_profile_mean": command.pivots.max_profile_mean,
        "num_profile_kept": len(pivots.examples),
        "num_profile_steps": len(examples),
    }


def _mismatches(command: TrainCommand, profile: Profile) -> list[str]:
    """Say where the profile's rewards are not those that this run's starting model would get."""
    header, config = profile.header, command.train
    pairs: list[tuple[str, object, object]] = [
        (name, header.prompts.get(name), getattr(command.prompts, name))
        for name in ("history", "max_observation_chars")
    ]
    pairs += [(name, getattr(header, name), getattr(config, name)) for name in ("temperature", "max_completion_tokens")]
    found = [f"{name} {then!r} there, {now!r} here" for name, then, now in pairs if then != now]
    if fingerprint_model(Path(config.model)) != header.model_fingerprint:
        found.append(f"model {header.model} there, {config.model} here, with other weights or tokenizer")
    return found
