"""One run while it lives: what the loop works on, opened fresh or from its newest checkpoint.

Leaves out the loop itself.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from rich.console import Console
from transformers.utils import logging as transformers_logging

from srl_swe.errors import ConfigError, DataError
from srl_swe.training.batches import select_usable
from srl_swe.training.checkpoint import (
    TrainState,
    load_adapter_file,
    load_optimizer,
    load_state,
    newest_checkpoint,
    remove_unfinished,
    write_record,
)
from srl_swe.training.config import MAY_CHANGE_ON_RESUME, TrainConfig
from srl_swe.training.data_order import choose_subset, fingerprint
from srl_swe.training.domain import Acting, Domain
from srl_swe.training.faults import memory_explained
from srl_swe.training.metrics import METRICS_FILE, MetricsLog, RunDisplay, tracker_config
from srl_swe.training.optimizers import make_optimizer
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes, SplitSampler, first_process_first
from srl_swe.training.samplers import Sampler
from srl_swe.training.transformers_sampler import TransformersSampler
from srl_swe.training.vllm_sampler import VLLMSampler
from srl_swe.training.vllm_server_sampler import VLLMServerSampler
from srl_swe.training.weights import add_adapters, cast
from srl_swe.training.zero import deepspeed_accelerator, launched_with_deepspeed
from srl_swe.types import StepExample

_PATIENCE = timedelta(hours=12)
"""How long processes wait for each other: for the longest episode, say. The launcher notices that one has died."""

ENGINE_FOLDER = "engine"
"""Subfolder of the run through which a sampling engine outside this process gets the policy."""


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything the loop works on; only `state` and `saved` change."""

    config: TrainConfig
    domain: Domain
    acting: Acting | None
    """Where episodes are played; None where the method plays none."""
    train_examples: tuple[StepExample, ...]
    validation_examples: tuple[StepExample, ...]
    num_iterations: int
    processes: Processes
    policy: Policy
    reference: Policy | None
    """What the policy is held to; None where `kl_coef` is 0."""
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    """This process's own."""
    log: MetricsLog | None
    """None in all processes but the first."""
    display: RunDisplay
    state: TrainState
    saved: TrainState | None
    """The state of the newest checkpoint."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the iteration that `state` has reached."""
        entry = {
            "iteration": self.state.iteration,
            **metrics,
            **self.display.take_times(),
            "tokens/completion_total": self.state.completion_tokens,
            "tokens/tree_total": self.state.tree_tokens,
            "tokens/trained_total": self.state.trained_tokens,
        }
        if self.log:
            self.log.append(entry)
        self.processes.accelerator.log(entry, step=self.state.iteration)
        self.display.finish_iteration(self.state.iteration, *self.progress, entry)

    @property
    def shared_sampler(self) -> Sampler:
        """Return the samplers of all processes as one, which shares out the prompts of each call."""
        return SplitSampler(self.sampler, self.processes) if self.processes.count > 1 else self.sampler

    @property
    def progress(self) -> tuple[int, int]:
        """Return how much is done of how much: trained tokens where they are the limit, else iterations."""
        if self.config.max_trained_tokens is not None and self.config.num_iterations is None:
            return min(self.state.trained_tokens, self.config.max_trained_tokens), self.config.max_trained_tokens
        return self.state.iteration, self.num_iterations


@contextmanager
def open_run(
    config: TrainConfig,
    train_examples: Sequence[StepExample],
    validation_examples: Sequence[StepExample],
    domain: Domain,
    *,
    selection: Mapping[str, object],
    acting: Acting | None = None,
) -> Iterator[Run]:
    """Start a run, or load the newest checkpoint of the matching run that lies in `config.output`.

    Raises:
        ConfigError: the output folder holds something else, or a run with other options or data.
        DataError: no usable step examples.
    """
    if not train_examples:
        raise DataError("there are no step examples to train on; see the drop reasons of the compilation")
    # Its bars for reading and writing weights would fight with ours.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if config.threads:
        torch.set_num_threads(config.threads)
    data = {"train": fingerprint(train_examples), "validation": fingerprint(validation_examples)}
    made_of = {"data_fingerprints": data, "domain": dict(domain.options)}
    accelerator = _make_accelerator(config)
    _check_engine(accelerator, config)
    processes = Processes(accelerator)
    stack = ExitStack()
    try:
        with first_process_first(processes) as first:
            if first:
                _claim_output(config, {**config.as_json(), **selection, **made_of})
        with memory_explained("loading", {"model": config.model, "dtype": config.dtype}, advice="leave out --kl-coef"):
            found = newest_checkpoint(config.output)
            policy = _load_policy(config, found, accelerator.device)
            reference = _load_reference(config, policy)
            sampler = stack.enter_context(_open_sampler(config, policy, processes))
            _prepare(policy, config, found)
            optimizer = processes.wrap(policy, make_optimizer(config, policy.model))
            state = TrainState()
            if found:
                load_optimizer(found, policy, optimizer, processes)
                state = load_state(found)
        with RunDisplay(console=None if processes.first else Console(quiet=True)) as display:
            usable = _select(train_examples, config.method == "sft", policy, domain, config, display)
            # What is too long is no candidate, so that the number asked for is reached where it can be.
            held_out = _select(validation_examples, False, policy, domain, config, display)
            chosen = choose_subset(len(held_out), count=config.validation_examples, seed=config.seed)
            num_iterations = config.count_iterations(len(usable))
            accelerator.init_trackers("srl_swe", config=tracker_config(config.as_json()))
            try:
                run = Run(
                    config=config,
                    domain=domain,
                    acting=acting,
                    train_examples=usable,
                    validation_examples=tuple(held_out[index] for index in chosen),
                    num_iterations=num_iterations,
                    processes=processes,
                    policy=policy,
                    reference=reference,
                    optimizer=optimizer,
                    sampler=sampler,
                    log=_open_log(config, state) if processes.first else None,
                    display=display,
                    state=state,
                    saved=state if found else None,
                )
                display.begin(*run.progress)
                yield run
                processes.part()
            except KeyboardInterrupt:
                display.note(f"stopped; {how_to_resume(config)}")
                raise
    finally:
        stack.close()
        accelerator.end_training()
        # Accelerate keeps its precision for the process; a second run here may have another.
        AcceleratorState._reset_state(reset_partial_state=True)


def _make_accelerator(config: TrainConfig) -> Any:
    options: dict[str, Any] = {"log_with": list(config.trackers) or None, "project_dir": str(config.output)}
    if launched_with_deepspeed():
        return deepspeed_accelerator(config, timeout=_PATIENCE, **options)
    precision = "bf16" if config.dtype == "bfloat16" else "no"
    handlers = [InitProcessGroupKwargs(timeout=_PATIENCE)]
    return Accelerator(mixed_precision=precision, cpu=config.device == "cpu", kwargs_handlers=handlers, **options)


def _check_engine(accelerator: Any, config: TrainConfig) -> None:
    if config.attention == "flex" and accelerator.device.type == "cpu":
        raise ConfigError(
            "attention flex has no backward pass on CPUs: leave --attention out, or run on a GPU (found device cpu)"
        )
    kind = accelerator.distributed_type
    sharded_otherwise = kind == DistributedType.FSDP and not accelerator.is_fsdp2
    if sharded_otherwise or kind == DistributedType.MEGATRON_LM:
        raise ConfigError(
            f"several processes share a run by DDP, FSDP2 or DeepSpeed, found {kind.value}: launch with `accelerate "
            "launch --use_fsdp --fsdp_version 2` (shards weights, gradients and optimizer states), with --multi_gpu, "
            "or with --use_deepspeed"
        )


def _load_policy(config: TrainConfig, found: Path | None, device: torch.device) -> Policy:
    """Load the weights of the checkpoint found, or the model to start from, which adapters are put on again."""
    source = found if found and config.lora_rank is None else config.model
    return Policy.from_pretrained(
        source, compute_dtype=getattr(torch, config.dtype), device=device, attention=config.attention
    )


def _prepare(policy: Policy, config: TrainConfig, found: Path | None) -> None:
    """Make a policy, of which a sampler has its plain copy, ready to be trained."""
    if config.lora_rank is not None:
        cast(policy.model, policy.compute_dtype)
        alpha = config.lora_alpha or 2 * config.lora_rank
        add_adapters(policy.model, rank=config.lora_rank, alpha=alpha, seed=config.seed)
        if found:
            load_adapter_file(found, policy)
    if config.gradient_checkpointing:
        policy.enable_gradient_checkpointing()
    # Nothing here draws from torch's own generator; a model with dropout would.
    torch.manual_seed(config.seed)


@contextmanager
def _open_sampler(config: TrainConfig, policy: Policy, processes: Processes) -> Iterator[Sampler]:
    if config.sampler == "transformers":
        yield TransformersSampler(
            policy, cached_tokens=config.cached_tokens, concurrent_rollouts=config.concurrent_rollouts
        )
        return
    folder = config.output / ENGINE_FOLDER
    max_row_tokens = min(config.max_prompt_tokens + config.max_completion_tokens, policy.max_context)
    if config.sampler == "vllm":
        with VLLMSampler(
            policy,
            folder=folder,
            max_row_tokens=max_row_tokens,
            cached_tokens=config.cached_tokens,
            concurrent_rollouts=config.concurrent_rollouts,
            processes=processes,
        ) as engine:
            yield engine
        return
    with VLLMServerSampler(
        policy,
        url=config.sampler,
        folder=folder,
        max_row_tokens=max_row_tokens,
        concurrent_rollouts=config.concurrent_rollouts,
        processes=processes,
    ) as server:
        yield server


def _load_reference(config: TrainConfig, policy: Policy) -> Policy | None:
    """Load the model that the run began from, also in a resumed run."""
    if not config.kl_coef:
        return None
    reference = Policy.from_pretrained(
        config.model, compute_dtype=policy.compute_dtype, device=policy.device, attention=config.attention
    )
    reference.freeze()
    return reference


def _open_log(config: TrainConfig, state: TrainState) -> MetricsLog:
    return MetricsLog(config.output / METRICS_FILE, last_iteration=_reported(state))


def _reported(state: TrainState) -> int:
    """Return the last iteration whose metrics belong into metrics.jsonl; -1 = none."""
    return state.iteration if state.pending is None else state.iteration - 1


def _select(
    examples: Sequence[StepExample],
    needs_target: bool,
    policy: Policy,
    domain: Domain,
    config: TrainConfig,
    display: RunDisplay,
) -> tuple[StepExample, ...]:
    with display.stage("measuring prompts", total=len(examples)):
        usable = select_usable(
            examples,
            policy=policy,
            domain=domain,
            config=config,
            needs_target=needs_target,
            on_example=display.step,
        )
    dropped = ", ".join(f"{count} {reason}" for reason, count in usable.dropped.items() if count)
    if dropped:
        display.note(f"dropped {dropped} of {len(examples)} step examples")
    return usable.examples


def _claim_output(config: TrainConfig, options: Mapping[str, object]) -> None:
    """Make the output folder this run's, or check that it already is."""
    run = config.output
    path = run / "config.json"
    options = json.loads(json.dumps(options))
    if not path.exists():
        if run.is_dir() and any(run.iterdir()):
            raise ConfigError(f"output folder {run} is not empty and holds no run; choose another, or empty it")
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output folder {run} cannot be made: {error}") from error
    else:
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON ({error}); choose another output folder") from error
        names = sorted((options.keys() | earlier.keys()) - MAY_CHANGE_ON_RESUME)
        differing = [name for name in names if earlier.get(name) != options.get(name)]
        if (run / METRICS_FILE).exists():
            _check_set(run, earlier.get("content_hash"), options.get("content_hash"))
        # A run that failed before its first line of metrics (a wrong model folder, say) left nothing to protect.
        if differing and (run / METRICS_FILE).exists():
            found = "; ".join(f"{name}: {earlier.get(name)!r} then, {options.get(name)!r} now" for name in differing)
            raise ConfigError(
                f"output folder {run} holds a run that differs ({found}). Choose another output folder, or give the "
                "same options and data to go on."
            )
        remove_unfinished(run)
    write_record(path, json.dumps(options, indent=1) + "\n")


def _check_set(run: Path, then: object, now: object) -> None:
    if then and now and then != now:
        raise ConfigError(
            f"the set of step examples has changed since the run in {run} began: content_hash {then} then, {now} now. "
            "Choose another output folder, or give the set that the run began with."
        )


def how_to_resume(config: TrainConfig) -> str:
    """Say where the same command would go on."""
    kept = newest_checkpoint(config.output)
    where = f"after iteration {load_state(kept).iteration}" if kept else "from the start, as there is no checkpoint yet"
    return f"run the same command again to go on {where}"
