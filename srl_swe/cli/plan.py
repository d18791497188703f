"""`srl-swe plan`: memory, time and disk of a training run before it starts, and options that fit."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from srl_swe.curation.iteration_size import IterationLimits, draw_steps, measure_iteration
from srl_swe.curation.lengths import Measure, characters, tokens_of
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.training.config import PAPER_RECIPES, TrainConfig
from srl_swe.training.plan import Given, Plan, launch_line, make_plan
from srl_swe.training.plan_devices import GIB, USABLE_SHARE, Devices, parse_devices
from srl_swe.training.plan_memory import PHASES
from srl_swe.training.plan_model import ModelShape, find_shape
from srl_swe.training.plan_options import PlannedOptions
from srl_swe.training.plan_workload import Workload
from srl_swe.types import StepExample

ADVICE = {
    "loading": "Each process loads the whole model in float32 before anything else: take a smaller model or devices "
    "with more memory; more devices do not help",
    "sampling": "Lower --concurrent-rollouts, --max-prompt-tokens and --max-completion-tokens, or take a smaller model",
    "training": "Lower --max-prompt-tokens and --max-completion-tokens, which bound the smallest pack, take a smaller "
    "model, or more or larger devices",
    "optimizer step": "Take a smaller model, more or larger devices, or give --lora-rank",
}
"""What to do where a phase does not fit."""

_DEFAULT_CACHED_TOKENS: int = {option.name: option.default for option in fields(TrainConfig)}["cached_tokens"]  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCommand:
    """Predict memory, time and disk of a training run (sft, srl), and propose options that fit. Nothing is loaded.

    srl-swe plan --model Qwen/Qwen2.5-Coder-7B-Instruct --data steps/ --gpus 8xH100

    Options of `srl-swe train` that are given here are kept; the others are chosen, or are the defaults. A reference
    policy (kl-coef) would come on top.
    """

    model: str
    """Model folder, a config.json, or the name of a well-known model (published sizes are built in)."""
    data: Path
    """Folder that `srl-swe data compile` wrote; the steps of one iteration are measured."""
    gpus: str
    """What it would run on: 8xH100, 1xRTX4090, 4xA100-40GB, 1x24GB, or cpu (this machine)."""
    tokenizer: str | None = None
    """Model folder whose tokenizer counts tokens; by default the model's, else characters / 3.2."""
    method: Literal["sft", "srl"] = "srl"
    """As for `srl-swe train`."""
    prompts_per_iteration: int | None = None
    """As for `srl-swe train`; the paper's by default."""
    epochs: int | None = None
    """As for `srl-swe train`; the paper's by default."""
    rollouts_per_prompt: int = 8
    """As for `srl-swe train`."""
    max_prompt_tokens: int = 4096
    """As for `srl-swe train`."""
    max_completion_tokens: int = 1024
    """As for `srl-swe train`."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """As for `srl-swe train`."""
    concurrent_rollouts: int = 64
    """As for `srl-swe train`."""
    keep_checkpoints: int = 2
    """As for `srl-swe train`."""
    tokens_per_pack: int | None = None
    """As for `srl-swe train`; chosen where left out."""
    gradient_checkpointing: bool | None = None
    """As for `srl-swe train`; chosen where left out."""
    lora_rank: int | None = None
    """As for `srl-swe train`; chosen where left out."""
    optimizer: Literal["adamw", "adamw_8bit"] | None = None
    """As for `srl-swe train`; chosen where left out."""
    sampler: Literal["transformers", "vllm"] | None = None
    """As for `srl-swe train`; chosen where left out."""
    cached_tokens: int | None = None
    """As for `srl-swe train`; chosen where left out."""
    prompts: tyro.conf.OmitArgPrefixes[PromptLimits] = field(default_factory=PromptLimits)
    kept_share: float = 0.5
    """Assumed share of the sampled groups that carry signal; the others are sampled and replaced."""
    utilisation: float | None = None
    """Share of the devices' peak speed that training reaches; by default what the kind's line says."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object in place of tables."""

    def __post_init__(self) -> None:
        for name in ("kept_share", "utilisation"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"{name} must be a number in (0, 1], found {share!r}")


def run(arguments: Sequence[str]) -> int:
    """Run the command; the exit code is 1 where nothing fits."""
    command = tyro.cli(PlanCommand, prog="srl-swe plan", args=list(arguments))
    shape = find_shape(command.model)
    devices = parse_devices(command.gpus)
    if command.utilisation is not None:
        devices = devices.with_utilisation(command.utilisation)
    start = _start(command, shape)
    workload = _workload(command, start)
    given = Given(
        tokens_per_pack=command.tokens_per_pack,
        gradient_checkpointing=command.gradient_checkpointing,
        lora_rank=command.lora_rank,
        optimizer=command.optimizer,
        sampler=command.sampler,
        cached_tokens=command.cached_tokens,
    )
    plan = make_plan(shape, workload, devices, start, given, kept_share=command.kept_share)
    if command.as_json:
        print(json.dumps(_record(command, shape, devices, workload, plan), indent=1))
    else:
        _show(command, shape, devices, workload, plan)
    return 0 if plan.fits else 1


def _start(command: PlanCommand, shape: ModelShape) -> PlannedOptions:
    """Check the options as a run would, and return them with defaults where the plan chooses."""
    row = command.max_prompt_tokens + command.max_completion_tokens
    group = command.max_prompt_tokens + command.rollouts_per_prompt * command.max_completion_tokens
    if command.max_completion_tokens >= shape.max_context:
        raise ConfigError(
            f"max_completion_tokens must be below the context of {command.model}, {shape.max_context} tokens, found "
            f"{command.max_completion_tokens}"
        )
    config = TrainConfig(
        model=command.model,
        output=Path("run"),
        method=command.method,
        prompts_per_iteration=command.prompts_per_iteration,
        epochs=command.epochs,
        rollouts_per_prompt=command.rollouts_per_prompt,
        max_prompt_tokens=command.max_prompt_tokens,
        max_completion_tokens=command.max_completion_tokens,
        dtype=command.dtype,
        concurrent_rollouts=command.concurrent_rollouts,
        keep_checkpoints=command.keep_checkpoints,
        tokens_per_pack=command.tokens_per_pack or row,
        lora_rank=command.lora_rank,
        cached_tokens=command.cached_tokens or max(_DEFAULT_CACHED_TOKENS, group),
    )
    return PlannedOptions(
        method=command.method,
        dtype=config.dtype,
        tokens_per_pack=config.tokens_per_pack,
        gradient_checkpointing=False,
        lora_rank=config.lora_rank,
        optimizer="adamw",
        sampler="transformers",
        launch="single",
        cached_tokens=config.cached_tokens,
        concurrent_rollouts=config.concurrent_rollouts,
        rollouts_per_prompt=config.rollouts_per_prompt if command.method == "srl" else 1,
        max_prompt_tokens=min(config.max_prompt_tokens, shape.max_context - config.max_completion_tokens),
        max_completion_tokens=config.max_completion_tokens,
        keep_checkpoints=config.keep_checkpoints,
        validate_every=config.validate_every,
        validation_examples=config.validation_examples,
    )


def _workload(command: PlanCommand, start: PlannedOptions) -> Workload:
    """Draw the steps of one iteration and measure them."""
    limits = IterationLimits(
        num_prompts=_prompts_per_iteration(command),
        rollouts_per_prompt=start.rollouts_per_prompt,
        max_prompt_tokens=start.max_prompt_tokens,
        max_completion_tokens=start.max_completion_tokens,
        needs_target=command.method == "sft",
    )
    drawn = draw_steps(command.data, limits.num_prompts)

    def watched(steps: Iterable[StepExample]) -> Iterable[StepExample]:
        total = len(drawn.steps)
        return track(steps, "measuring prompts", total=total, console=Console(stderr=True), transient=True)

    return measure_iteration(drawn, _measure(command), command.prompts, limits, watched=watched)


def _measure(command: PlanCommand) -> Measure:
    """Return how lengths are counted: by a tokenizer, where one is named or lies in the model's folder."""
    if command.tokenizer is not None:
        return tokens_of(command.tokenizer)
    folder = Path(command.model)
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return tokens_of(command.model)
    return characters()


def _record(
    command: PlanCommand, shape: ModelShape, devices: Devices, workload: Workload, plan: Plan
) -> dict[str, object]:
    """Return everything that the tables show, in bytes and seconds."""
    epochs = _epochs(command)
    return {
        "model": asdict(shape) | {"parameters": shape.num_parameters},
        "devices": asdict(devices) | {"usable_bytes": devices.device.usable_bytes},
        "workload": asdict(workload),
        "fits": plan.fits,
        "options": asdict(plan.options),
        "command": _line(command, devices, plan),
        "memory": {
            "terms": [asdict(term) for term in plan.memory.terms],
            "phases": {phase: plan.memory.phase_bytes(phase) for phase in PHASES},
            "peak_bytes": plan.memory.peak_bytes,
            "peak_phase": plan.memory.peak_phase,
        },
        "time": asdict(plan.time)
        | {
            "iteration_s": plan.time.iteration_s,
            "epoch_hours": plan.time.epoch_hours,
            "epochs": epochs,
            "run_hours": plan.time.epoch_hours * epochs,
            "kept_share": command.kept_share,
        },
        "disk": asdict(plan.disk) | {"total_bytes": plan.disk.total_bytes},
    }


def _show(command: PlanCommand, shape: ModelShape, devices: Devices, workload: Workload, plan: Plan) -> None:
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    device = devices.device
    say(f"{shape.name}: {shape.num_parameters:,} parameters ({shape.source})")
    say(
        f"{devices.count} x {device.name}: {device.memory_bytes / GIB:.1f} GiB each, {USABLE_SHARE:.0%} of it usable; "
        f"{device.note}"
    )
    say(_workload_line(workload))
    asked = _prompts_per_iteration(command)
    if workload.num_prompts < asked:
        say(f"note: an iteration draws {asked} prompts, and the set has {workload.num_prompts}: time is for these once")
    console.print(_memory_table(plan, device.usable_bytes, with_details=console.width >= 110))
    console.print(_time_table(command, plan))
    if plan.fits:
        say("proposed:")
    else:
        say(
            f"NOTHING FITS: what needs least is shown, {plan.memory.peak_bytes / GIB:.1f} GiB "
            f"({plan.memory.peak_phase}), but {device.usable_bytes / GIB:.1f} GiB are usable on each device. "
            f"{ADVICE[plan.memory.peak_phase]}; or leave out what you gave that could be chosen. What came nearest:"
        )
    say(f"  {_line(command, devices, plan)}")


def _workload_line(workload: Workload) -> str:
    dropped = f", about {workload.num_dropped:,} of no use" if workload.num_dropped else ""
    return (
        f"{workload.num_steps:,} usable steps{dropped}. An iteration: "
        f"{workload.num_prompts:,} prompts of {workload.mean_prompt_tokens:,.0f} tokens x "
        f"{workload.rollouts_per_prompt} completions of {workload.mean_completion_tokens:,.0f} (taken to be as long as "
        f"the expert's) = {workload.row_tokens:,} row tokens, {workload.tree_tokens:,} as trees "
        f"({workload.row_tokens / workload.tree_tokens:.1f} times less); {workload.how}"
    )


def _memory_table(plan: Plan, usable_bytes: int, *, with_details: bool) -> Table:
    table = Table(title="memory of one device, GiB", title_justify="left", box=None, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for phase in PHASES:
        table.add_column(phase.removesuffix(" step"), justify="right", no_wrap=True)
    table.add_column("")
    for term in plan.memory.terms:
        shown = (f"{term.num_bytes / GIB:.2f}" if phase in term.phases else "" for phase in PHASES)
        table.add_row(term.name, *shown, term.detail if with_details else "")
    sums = (f"{plan.memory.phase_bytes(phase) / GIB:.2f}" for phase in PHASES)
    verdict = "fits" if plan.fits else "does not fit"
    table.add_row(f"in all; {usable_bytes / GIB:.2f} usable: {verdict}", *sums, "", style="bold")
    return table


def _time_table(command: PlanCommand, plan: Plan) -> Table:
    time, disk, epochs = plan.time, plan.disk, _epochs(command)
    table = Table(title="time and disk", title_justify="left", box=None, show_header=False, padding=(0, 1))
    sampling = f"sampling {time.sampling_s:,.0f} s ({command.kept_share:.0%} of the groups kept is assumed), "
    table.add_row(
        "an iteration",
        f"{time.iteration_s:,.0f} s",
        f"{sampling if command.method == 'srl' else ''}training {time.training_s:,.0f} s, validation on average "
        f"{time.validation_s:,.0f} s",
    )
    iterations = time.iterations_per_epoch
    table.add_row("an epoch", _hours(time.epoch_hours), f"{iterations:,} iteration{'s' * (iterations > 1)}")
    table.add_row("the run", _hours(time.epoch_hours * epochs), f"{epochs} epoch{'s' * (epochs > 1)}")
    folder = f", engine folder {disk.engine_bytes / 1e9:.1f}" if disk.engine_bytes else ""
    table.add_row(
        "disk",
        f"{disk.total_bytes / 1e9:,.1f} GB",
        f"{disk.num_checkpoints} checkpoints of {disk.checkpoint_bytes / 1e9:.1f}, best {disk.best_bytes / 1e9:.1f}"
        f"{folder}, and room to write one",
    )
    return table


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.0f} min"


def _prompts_per_iteration(command: PlanCommand) -> int:
    return command.prompts_per_iteration or PAPER_RECIPES[command.method].prompts_per_iteration


def _epochs(command: PlanCommand) -> int:
    return command.epochs or PAPER_RECIPES[command.method].epochs


def _line(command: PlanCommand, devices: Devices, plan: Plan) -> str:
    """Return the command to start, with the options that were given here."""
    words = [f"--data {command.data} --model {command.model} --output RUN"]
    defaults = {option.name: option.default for option in fields(PlanCommand)}
    kept = ("method", "prompts_per_iteration", "epochs", "rollouts_per_prompt", "max_prompt_tokens")
    for name in (*kept, "max_completion_tokens", "dtype", "concurrent_rollouts", "keep_checkpoints"):
        if getattr(command, name) != defaults[name]:
            words.append(f"--{name.replace('_', '-')} {getattr(command, name)}")
    for option in fields(PromptLimits):
        value = getattr(command.prompts, option.name)
        if value != option.default:
            words.append(f"--{option.name.replace('_', '-')} {value}")
    if not devices.device.is_gpu:
        words.append("--device cpu")
    return launch_line(plan, devices, " ".join(words))
