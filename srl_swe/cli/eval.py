"""`srl-swe eval`: act on instances and grade the patches."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from srl_swe.errors import ConfigError
from srl_swe.evaluation.agent import Agent, AgentConfig
from srl_swe.evaluation.controls import empty_predictions, gold_predictions, reversed_predictions
from srl_swe.evaluation.predictions import read_predictions
from srl_swe.evaluation.report import Summary, summary_table
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.evaluation.splits import load_split
from srl_swe.types import Instance, Prediction


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Measure the resolve rate: a model acts on instances in containers, and its patches are graded by their tests.

    Say which instances (--split or --instances) and whose patches (--model, --predictions, --gold or --control).
    Verdicts are on disk as they come; the same command goes on where it stopped, and a graded patch is never
    graded again.
    """

    split: str | None = None
    """verified, lite, lite-dev, full, dev, multilingual, multimodal-dev; or owner/name:split on the hub; or a local
    .parquet or .jsonl file."""
    instances: Path | None = None
    """Local file of instances: SWE-bench v5 rows or source-distribution rows (.jsonl, .json, .parquet)."""
    instance_ids: tuple[str, ...] = ()
    """Only these."""
    limit: int | None = None
    """Only the first so many."""

    model: str | None = None
    """Folder of the model that acts."""
    predictions: Path | None = None
    """File of predictions to grade (.jsonl, .json list, or .json object by instance id)."""
    gold: bool = False
    """Grade the gold patches: every instance must come out resolved."""
    control: Literal["empty", "reversed-gold"] | None = None
    """Grade patches that must resolve nothing."""

    output: Path | None = None
    """Folder of predictions, trajectories, verdicts and reports; default: runs/eval-<whose>-<which>."""
    retry_invalid: bool = True
    """Grade again what infrastructure failures of earlier runs left without a verdict."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the acting model."""
    history: int | Literal["all"] | None = None
    """Last pairs of action and observation shown to the model; default: as the model was trained, else 2."""
    max_observation_chars: int | None = None
    """Longer observations lose their middle in prompts; default: as the model was trained, else 4000."""
    agent: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=AgentConfig)

    def __post_init__(self) -> None:
        if (self.split is None) == (self.instances is None):
            raise ConfigError("say which instances: exactly one of --split and --instances")
        whose = [self.model is not None, self.predictions is not None, self.gold, self.control is not None]
        if sum(whose) != 1:
            raise ConfigError("say whose patches: exactly one of --model, --predictions, --gold and --control")


def run(arguments: Sequence[str]) -> int:
    """Run the command; exit code 0 when every prediction has a valid verdict, else 1."""
    config = tyro.cli(EvalConfig, prog="srl-swe eval", args=list(arguments), config=(tyro.conf.AvoidSubcommands,))
    console = Console()
    instances = load_split(config.split or str(config.instances), instance_ids=config.instance_ids, limit=config.limit)
    summary = run_evaluation(config, instances, console)
    console.print(summary_table([summary]))
    console.print(f"written to {output_folder(config)}", markup=False, highlight=False)
    return 0 if summary.complete else 1


def run_evaluation(config: EvalConfig, instances: Sequence[Instance], console: Console) -> Summary:
    """Get the predictions, grade them, and return the summary."""
    from srl_swe.environments.connect import connect_engine

    output = output_folder(config)
    invalid: Mapping[str, str] = {}
    # Files and options are read before the engine is asked: what is wrong with them is said at once.
    predictions = _given_predictions(config, instances)
    agent = _agent(config) if config.model is not None else None
    with connect_engine() as engine:
        if agent is not None:
            outcome = agent.run(instances, output, console=console)
            predictions, invalid = outcome.predictions, outcome.invalid
        evaluation = EvaluationConfig(
            output=output, max_parallel=config.agent.max_parallel, retry_invalid=config.retry_invalid
        )
        return evaluate(instances, predictions, evaluation, engine=engine, invalid_episodes=invalid, console=console)


def output_folder(config: EvalConfig) -> Path:
    """Return where the evaluation writes."""
    if config.output is not None:
        return config.output
    whose = config.model or config.predictions or config.control or "gold"
    which = config.split or config.instances
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{whose}-{Path(str(which)).stem}").strip("-.")
    return Path("runs") / f"eval-{name}"


def _given_predictions(config: EvalConfig, instances: Sequence[Instance]) -> tuple[Prediction, ...]:
    if config.predictions is not None:
        return read_predictions(config.predictions)
    if config.gold:
        return gold_predictions(instances)
    if config.control is not None:
        return (empty_predictions if config.control == "empty" else reversed_predictions)(instances)
    return ()


def _agent(config: EvalConfig) -> Agent:
    import torch

    from srl_swe.software_engineering import trained_limits
    from srl_swe.training.policy import Policy
    from srl_swe.training.transformers_sampler import TransformersSampler

    assert config.model is not None
    limits = trained_limits(
        Path(config.model), history=config.history, max_observation_chars=config.max_observation_chars
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = Policy.from_pretrained(config.model, compute_dtype=getattr(torch, config.dtype), device=device)
    sampler = TransformersSampler(policy, cached_tokens=131_072, concurrent_rollouts=64)
    return Agent(
        sampler,
        policy.encode_prompt,
        max_context=policy.max_context,
        model_name=config.model,
        config=config.agent,
        limits=limits,
    )
