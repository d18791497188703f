"""A plan of a run before it costs anything: options that fit a device's memory, with their time and disk.

Options are tried in an order, the ones that change the method least first. Leaves out what each formula is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

from srl_swe.training.plan_devices import Devices
from srl_swe.training.plan_disk import DiskPlan, plan_disk
from srl_swe.training.plan_memory import PHASES, MemoryPlan, plan_memory
from srl_swe.training.plan_model import ModelShape
from srl_swe.training.plan_options import Launch, PlannedOptions
from srl_swe.training.plan_time import TimePlan, plan_time
from srl_swe.training.plan_workload import Workload

T = TypeVar("T")

PACKS = (32768, 16384, 8192)
"""Tokens of a pack that are tried, largest first; then the least that holds a row."""
LORA_RANK = 16
"""Tried where all weights do not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What the user has decided; None = to be chosen."""

    tokens_per_pack: int | None = None
    gradient_checkpointing: bool | None = None
    lora_rank: int | None = None
    optimizer: str | None = None
    sampler: str | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One way to run, and what it takes of each device."""

    options: PlannedOptions
    memory: MemoryPlan
    time: TimePlan
    disk: DiskPlan
    fits: bool
    """Whether the memory is within the device's usable share."""


def make_plan(
    shape: ModelShape,
    workload: Workload,
    devices: Devices,
    start: PlannedOptions,
    given: Given,
    *,
    kept_share: float,
) -> Plan:
    """Return the preferred way to run that fits, or the one that needs least memory where none does.

    Of those that train the same weights with the same optimizer, the fastest.
    """
    nearest: Plan | None = None
    for _, alike in groupby(candidates(start, given, devices), key=lambda o: (o.lora_rank, o.launch, o.optimizer)):
        plans = [_plan(shape, workload, devices, options, kept_share) for options in alike]
        fitting = [plan for plan in plans if plan.fits]
        if fitting:
            return min(fitting, key=lambda plan: plan.time.iteration_s)
        nearest = min([*plans, *([nearest] if nearest else [])], key=_need)
    assert nearest is not None
    return nearest


def _plan(shape: ModelShape, workload: Workload, devices: Devices, options: PlannedOptions, kept_share: float) -> Plan:
    memory = plan_memory(shape, options, workload, devices)
    return Plan(
        options=options,
        memory=memory,
        time=plan_time(shape, options, workload, devices, kept_share=kept_share),
        disk=plan_disk(shape, options),
        fits=memory.peak_bytes <= devices.device.usable_bytes,
    )


def _need(plan: Plan) -> tuple[int, int]:
    """Order by the peak, then by all phases: the peak may be that of loading, whatever the options are."""
    return plan.memory.peak_bytes, sum(plan.memory.phase_bytes(phase) for phase in PHASES)


def candidates(start: PlannedOptions, given: Given, devices: Devices) -> Iterator[PlannedOptions]:
    """Yield ways to run, the preferred ones first.

    All weights before adapters; whole copies before shards; plain AdamW before states of 8 bits, which are not tried on
    shards. vLLM, an engine in each process, is tried on GPUs. Large packs and caches come before small ones.
    """
    for rank in _choices(given.lora_rank, (None, LORA_RANK)):
        for launch in _launches(devices):
            for optimizer in _choices(given.optimizer, ("adamw", "adamw_8bit")):
                eight_bits = optimizer == "adamw_8bit"
                if given.optimizer is None and eight_bits and (launch == "fsdp2" or rank or not devices.device.is_gpu):
                    continue
                for recomputed in _choices(given.gradient_checkpointing, (False, True)):
                    for sampler in _choices(given.sampler, _samplers(devices)):
                        yield from _sized(
                            replace(
                                start,
                                lora_rank=rank,
                                launch=launch,
                                optimizer="adamw_8bit" if eight_bits else "adamw",
                                gradient_checkpointing=recomputed,
                                sampler=sampler,
                            ),
                            given,
                        )


def _sized(options: PlannedOptions, given: Given) -> Iterator[PlannedOptions]:
    group = options.max_prompt_tokens + options.rollouts_per_prompt * options.max_completion_tokens
    caches = [size for size in (options.cached_tokens, options.cached_tokens // 4) if size >= group]
    packs = [size for size in PACKS if size > options.row_tokens]
    for tokens in _choices(given.tokens_per_pack, (*packs, options.row_tokens)):
        for cached in _choices(given.cached_tokens, (*caches, group)):
            yield replace(options, tokens_per_pack=tokens, cached_tokens=cached)


def _choices(given: T | None, others: tuple[T, ...]) -> tuple[T, ...]:
    return others if given is None else (given,)


def _launches(devices: Devices) -> tuple[Launch, ...]:
    return ("single",) if devices.count == 1 else ("ddp", "fsdp2")


def _samplers(devices: Devices) -> tuple[str, ...]:
    return ("vllm", "transformers") if devices.device.is_gpu else ("transformers",)


def launch_line(plan: Plan, devices: Devices, words: str) -> str:
    """Return the command that starts the run; `words` are the options of `srl-swe train` that the user has in mind."""
    options = plan.options
    flags = [f"--tokens-per-pack {options.tokens_per_pack}", f"--cached-tokens {options.cached_tokens}"]
    if options.gradient_checkpointing:
        flags.append("--gradient-checkpointing")
    if options.lora_rank:
        flags.append(f"--lora-rank {options.lora_rank}")
    if options.optimizer != "adamw":
        flags.append(f"--optimizer {options.optimizer}")
    if options.sampler != "transformers":
        flags.append(f"--sampler {options.sampler}")
    arguments = f"train {words} {' '.join(flags)}"
    if options.launch == "single":
        return f"srl-swe {arguments}"
    how = {
        "ddp": "--multi_gpu",
        "fsdp2": "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP",
    }[options.launch]
    return f"accelerate launch {how} --num_processes {devices.count} -m srl_swe.cli.main {arguments}"
