"""`srl-swe eval` without a sub-command: act on instances and grade the patches."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from srl_swe.cli.eval.acting import Act, opened_agent
from srl_swe.cli.eval.fleet import FleetOptions, opened_fleet
from srl_swe.cli.image_options import RunImageOptions
from srl_swe.errors import ConfigError
from srl_swe.evaluation.agent_config import AgentConfig, AgentOutcome
from srl_swe.evaluation.cheats import cheat_lines
from srl_swe.evaluation.choice import Choice
from srl_swe.evaluation.controls import empty_predictions, gold_predictions, reversed_predictions
from srl_swe.evaluation.endpoint import EndpointConfig
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.gold_failures import find_gold_failures, write_gold_failures
from srl_swe.evaluation.grading_ahead import GradingAhead
from srl_swe.evaluation.predictions import read_samples
from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.report import Summary, summary_table
from srl_swe.evaluation.report_pages import write_pages
from srl_swe.evaluation.samples import sample_folders, sample_lines
from srl_swe.evaluation.samples_page import write_samples_page
from srl_swe.evaluation.scheduler import IMAGE_LIMIT_S, EvaluationConfig, evaluate_on
from srl_swe.evaluation.splits import load_split
from srl_swe.types import Instance, Prediction

if TYPE_CHECKING:
    from srl_swe.environments.image_supply import ImageSupply


_IMAGE_WAIT_LIMIT_S = 8 * 3600.0
"""Where images come within a budget or a few at a time, an instance also waits for those of others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Measure the resolve rate: a model acts on instances in containers, and its patches are graded by their tests.

    Say which instances (--split or --instances) and whose patches (--model, --agent, --predictions, --gold or
    --control).
    Verdicts are on disk as they come; the same command goes on where it stopped, and a graded patch is never
    graded again.

    First on a new machine: srl-swe eval --instances FILE --gold

    Then a model: srl-swe eval --instances FILE --model FOLDER

    A model behind an endpoint: srl-swe eval --split lite --endpoint http://localhost:8000/v1 --model NAME

    Four samples and pass@k: srl-swe eval --instances FILE --model FOLDER --samples 4 --temperature 0.8

    Edits instead of commands: srl-swe eval --instances FILE --model FOLDER --scaffold oracle-edit

    A Python class: srl-swe eval --instances FILE --agent my_module:MyAgent

    On a small disk: srl-swe eval --split verified --disk-budget 60GB --gold (srl-swe images plan says what it takes)

    Patches made elsewhere: srl-swe eval --instances FILE --predictions preds.jsonl

    A part of a set: srl-swe eval --split verified --repo django/django --shuffle 0 --slice 0:50 --gold

    On several machines: srl-swe eval --instances FILE --gold --engines ssh://a,ssh://b (docs/fleet.md)

    Rows of an older SWE-bench schema: srl-swe eval render FILE --like V5_FILE --out rows.jsonl

    With a finished evaluation: srl-swe eval report FOLDER (its pages again), srl-swe eval compare FOLDER FOLDER
    (McNemar's test), srl-swe eval submit-kit FOLDER (for the leaderboard); each has its own --help.
    """

    split: str | None = None
    """verified, lite, lite-dev, full, dev, multilingual, multimodal-dev, swe-gym, swe-gym-lite, swe-smith, swe-rebench,
    swe-rebench-leaderboard, r2e-gym, r2e-gym-lite; or owner/name:split on the hub; or a local file."""
    instances: Path | None = None
    """Local file of instances (.jsonl, .json, .parquet): rows of SWE-bench v5, SWE-Gym, SWE-smith, SWE-rebench, R2E-Gym
    or of source distributions."""
    choice: Annotated[Choice, tyro.conf.arg(name="")] = field(default_factory=Choice)

    model: str | None = None
    """Folder of the model that acts, or its name at the endpoint."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible endpoint that serves the model, for example http://localhost:8000/v1. What fails
    there, also after retries, makes an instance invalid, never unresolved."""
    scaffold: Literal["multi-turn", "oracle-edit", "agentless"] = "multi-turn"
    """How the model is asked. multi-turn: one command after the other, as in training. oracle-edit: once; it is shown
    the files that the gold patch touches and answers with edits. agentless: twice; it names files from the
    repository's tree, then edits these."""
    num_files: int = 3
    """Files that the model may name, with --scaffold agentless."""
    agent_class: Annotated[str | None, tyro.conf.arg(name="agent")] = None
    """A Python class that acts, as module:Class; docs/evaluation.md says what it must have."""
    predictions: Path | None = None
    """File of predictions to grade (.jsonl, .json list, or .json object by instance id)."""
    samples: int = 1
    """Predictions per instance: in the file, or to be made by the model (which needs a --temperature above 0). Each set
    of samples is graded in its own folder, and pass@k is printed."""
    gold: bool = False
    """Grade the gold patches: every instance must come out resolved. Those that do not are written to
    gold-failures.json with reasons, and as bare ids to gold-failures.txt, which --exclude-ids @FILE reads."""
    control: Literal["empty", "reversed-gold"] | None = None
    """Grade patches that must resolve nothing."""

    output: Path | None = None
    """Folder of predictions, trajectories, verdicts and reports; default: runs/eval-<whose>-<which>."""
    retry_invalid: bool = True
    """Grade again what infrastructure failures of earlier runs left without a verdict."""
    regrade: bool = False
    """Grade everything again, whatever earlier runs found."""
    confirm: int = 1
    """Gradings of each patch. The first counts; the others show which verdicts and tests do not repeat (flaky)."""
    skip_reinstall: bool = False
    """Leave out the installation that a script repeats before the tests (pip install -e .), where the patch changes
    nothing that it depends on. Said in the record; such verdicts are stored apart from others."""
    sampler: Literal["transformers", "vllm"] = "transformers"
    """What samples from a model's folder; vllm runs a vLLM engine on this machine, with all running episodes as a
    batch, and needs the extra [vllm]."""
    cached_tokens: int = 131_072
    """Bound on the sampler's key-value cache, in tokens."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the acting model."""
    history: int | Literal["all"] | None = None
    """Last pairs of action and observation shown to the model; default: as the model was trained, else 2."""
    max_observation_chars: int | None = None
    """Longer observations lose their middle in prompts; default: as the model was trained, else 4000."""
    images: Annotated[RunImageOptions, tyro.conf.arg(name="")] = field(default_factory=RunImageOptions)
    agent: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=AgentConfig)
    asking: Annotated[EndpointConfig, tyro.conf.arg(name="")] = field(default_factory=EndpointConfig)
    fleet: Annotated[FleetOptions, tyro.conf.arg(name="")] = field(default_factory=FleetOptions)

    def __post_init__(self) -> None:
        if (self.split is None) == (self.instances is None):
            raise ConfigError("say which instances: exactly one of --split and --instances")
        whose = [self.model, self.agent_class, self.predictions, self.gold or None, self.control]
        if sum(each is not None for each in whose) != 1:
            raise ConfigError("say whose patches: exactly one of --model, --agent, --predictions, --gold and --control")
        if self.endpoint is not None and self.model is None:
            raise ConfigError("endpoint: give the model's name there with --model")
        if self.endpoint is not None and self.sampler != "transformers":
            raise ConfigError("sampler: an endpoint samples by itself; leave --sampler or --endpoint out")
        if self.scaffold != "multi-turn" and self.model is None:
            raise ConfigError(f"scaffold = {self.scaffold} asks a model: give one with --model")
        if self.endpoint is None and (self.asking.max_cost or self.asking.max_episode_cost):
            raise ConfigError("max_cost and max_episode_cost are about the calls of an endpoint: give --endpoint")
        if self.num_files < 1:
            raise ConfigError(f"num_files must be at least 1, not {self.num_files}")
        if self.cached_tokens < 1:
            raise ConfigError(f"cached_tokens must be at least 1, not {self.cached_tokens}")
        if self.samples < 1 or (self.samples > 1 and not (self.acts or self.predictions)):
            raise ConfigError(f"samples = {self.samples}: must be at least 1, and more need --model or --predictions")
        if self.samples > 1 and self.model is not None and self.agent.temperature == 0:
            raise ConfigError(f"samples = {self.samples} of a greedy model are all the same: give a --temperature")
        if self.images.wanted and self.fleet.is_elsewhere:
            raise ConfigError(
                "disk_budget and mirror are about the one engine of this machine: leave --engines and "
                "--executor ray out, or let each machine look after its own disk (srl-swe images gc)"
            )
        if self.confirm < 1:
            raise ConfigError(f"confirm = {self.confirm}: must be at least 1, the number of gradings of each patch")

    @property
    def acts(self) -> bool:
        """Whether an agent makes the predictions."""
        return self.model is not None or self.agent_class is not None


def run(arguments: Sequence[str]) -> int:
    """Run the command; exit code 0 when every prediction has a valid verdict, else 1; an agent's are to be complete.

    Predictions from a file may be of a part of the instances.
    """
    config = tyro.cli(EvalConfig, prog="srl-swe eval", args=list(arguments), config=(tyro.conf.AvoidSubcommands,))
    console = Console()
    task_set = load_split(config.split or str(config.instances))
    if config.skip_reinstall:
        task_set = tuple(replace(each, tests=replace(each.tests, skip_reinstall=True)) for each in task_set)
    instances = config.choice.of(task_set)
    summaries = run_evaluation(config, instances, task_set, console)
    console.print(summary_table(summaries))
    for line in _further_lines(config, instances, summaries):
        # Instance ids and names of tests come from outside.
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if len(summaries) > 1:
        write_samples_page(output_folder(config), console=console)
    if config.acts and any(summary.num_not_predicted for summary in summaries):
        return 1
    return 0 if all(summary.complete for summary in summaries) else 1


def run_evaluation(
    config: EvalConfig, instances: Sequence[Instance], task_set: Sequence[Instance], console: Console
) -> list[Summary]:
    """Get the predictions, grade them, and return the summary of every set of samples.

    `instances` are the chosen ones of `task_set`: predictions for the others are left out, which is said.
    """
    output = output_folder(config)
    # Files and options are read before the engine is asked: what is wrong with them is said at once.
    samples = [
        asked_for(predictions, instances, task_set, console) for predictions in _given_predictions(config, instances)
    ]
    invalid: list[Mapping[str, str]] = [{} for _ in samples]
    with ExitStack() as acting:
        act = acting.enter_context(opened_agent(config, instances, output, console)) if config.acts else None
        predicted = {each.instance_id for predictions in samples for each in predictions if each.model_patch}
        needed = [each for each in instances if act is not None or each.instance_id in predicted]
        with opened_fleet(config.fleet, config.images, needed, max_parallel=config.agent.max_parallel) as (
            fleet,
            images,
        ):
            if act is not None:
                outcomes = [_act(config, act, number, fleet, images, console) for number in range(config.samples)]
                samples, invalid = [each.predictions for each in outcomes], [each.invalid for each in outcomes]
                # Grading needs the memory more than the model does.
                acting.close()
            summaries = []
            for folder, predictions, failed in zip(sample_folders(output, len(samples)), samples, invalid, strict=True):
                summaries.append(
                    evaluate_on(
                        fleet,
                        instances,
                        predictions,
                        _grading_config(config, folder),
                        invalid_episodes=failed,
                        console=console,
                    )
                )
                write_pages(folder, console=console)
            return summaries


def _act(
    config: EvalConfig, act: Act, number: int, fleet: Fleet, images: "ImageSupply | None", console: Console
) -> AgentOutcome:
    folder = sample_folders(output_folder(config), config.samples)[number]
    with GradingAhead(fleet, _grading_config(config, folder), images=images, console=console) as ahead:
        return act(folder, number, ahead, fleet if config.fleet.is_elsewhere else None)


def _grading_config(config: EvalConfig, folder: Path) -> EvaluationConfig:
    return EvaluationConfig(
        output=folder,
        max_parallel=config.agent.max_parallel,
        image_limit_s=_IMAGE_WAIT_LIMIT_S if config.images.wanted else IMAGE_LIMIT_S,
        retry_invalid=config.retry_invalid,
        regrade=config.regrade,
        confirm=config.confirm,
        split=config.split or Path(str(config.instances)).name,
        choice=config.choice.described(),
    )


def _further_lines(config: EvalConfig, instances: Sequence[Instance], summaries: Sequence[Summary]) -> Iterator[str]:
    output = output_folder(config)
    if len(summaries) > 1:
        yield from sample_lines(summaries, output)
    for number, summary in enumerate(summaries, start=1):
        where = f"sample {number}: " if len(summaries) > 1 else ""
        for name, how_often in summary.flaky.items():
            yield f"{where}flaky: {name} ({how_often})"
        if summary.cheats:
            yield from (where + line for line in cheat_lines(summary.cheats))
    if config.confirm > 1 and not any(summary.flaky for summary in summaries):
        yield f"no verdict differs between {config.confirm} gradings"
    if config.gold:
        failures, unknown = find_gold_failures(output, read_record(output), instances)
        path = write_gold_failures(output, read_record(output), failures, unknown)
        yield f"gold patches that do not pass here: {len(failures)} of {len(instances)}"
        yield from (f"  {failure.instance_id}: {failure.gradings or failure.reason}" for failure in failures)
        if failures:
            yield f"--exclude-ids @{path} leaves them out of an evaluation, and says so"
        if unknown:
            yield f"nothing is known of {len(unknown)} instances, whose grading failed: run the command again"
    yield f"written to {output}"


def asked_for(
    predictions: Sequence[Prediction], instances: Sequence[Instance], task_set: Sequence[Instance], console: Console
) -> tuple[Prediction, ...]:
    """Leave out predictions for instances of the set that were not chosen; those of other sets stay, to be refused."""
    not_chosen = {each.instance_id for each in task_set} - {each.instance_id for each in instances}
    kept = tuple(each for each in predictions if each.instance_id not in not_chosen)
    if len(kept) < len(predictions):
        left_out = len(predictions) - len(kept)
        console.print(f"{left_out} of {len(predictions)} predictions are for instances that were not chosen: left out")
    return kept


def output_folder(config: EvalConfig) -> Path:
    """Return where the evaluation writes."""
    if config.output is not None:
        return config.output
    whose = config.model or config.agent_class or config.predictions or config.control or "gold"
    which = config.split or config.instances
    how = "" if config.scaffold == "multi-turn" else f"-{config.scaffold}"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{whose}{how}-{Path(str(which)).stem}").strip("-.")
    return Path("runs") / f"eval-{name}"


def _given_predictions(config: EvalConfig, instances: Sequence[Instance]) -> list[tuple[Prediction, ...]]:
    if config.predictions is not None:
        return list(read_samples(config.predictions, config.samples))
    if config.gold:
        return [gold_predictions(instances)]
    if config.control is not None:
        return [(empty_predictions if config.control == "empty" else reversed_predictions)(instances)]
    return [()]
