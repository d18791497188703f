"""Profiling: sample one group for each step of a set, once, and keep the rewards.

The steps go through the sampler in batches cut at fixed places of the set, each step with a seed of its own. So its
rewards depend neither on the company it is sampled in nor on where a run was interrupted: what a batch lacks after
a kill is got by sampling the whole batch again, because rounding depends on the company.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srl_swe.curation.profile_file import (
    Profile,
    ProfileHeader,
    ProfileWriter,
    StepProfile,
    fingerprint_model,
    open_profile,
    read_profile,
)
from srl_swe.errors import ConfigError, DataError
from srl_swe.training.advantages import population_std, well_formed_similarities
from srl_swe.training.domain import Domain
from srl_swe.trajectories.store import PROFILE, Part, read_manifest, read_steps
from srl_swe.types import Group, StepExample

if TYPE_CHECKING:
    from srl_swe.training.policy import Policy
    from srl_swe.training.samplers import Sampler

TOO_LONG = "prompt_too_long"
_ROUNDS = 2
"""Groups of a batch for each one that is decoded at once: more keep the sampler fuller, fewer lose less to Ctrl-C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """How steps are sampled. The defaults are those of training."""

    samples: int = 8
    """Completions for each step (PivotRL and the paper: 8)."""
    temperature: float = 1.0
    """Sampling temperature."""
    seed: int = 0
    """Seed of sampling."""
    max_prompt_tokens: int = 4096
    """Steps with a longer prompt are skipped and recorded as such."""
    max_completion_tokens: int = 1024
    """Sampling stops here."""
    cached_tokens: int = 131_072
    """Bound on the sampler's key-value cache, in tokens."""
    concurrent_rollouts: int = 64
    """Bound on the rollouts that are decoded at once; steps are written in batches of twice as many (another number may
    move the last digits)."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the model."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: a GPU where there is one, else the CPU."""
    threads: int | None = None
    """CPU threads of torch; by default torch decides."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ConfigError(f"samples must be at least 2, because one reward has no spread; found {self.samples}")
        if not 0 < self.temperature <= 10:
            raise ConfigError(f"temperature must be a number in (0, 10], found {self.temperature!r}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be an integer in [0, 2**63), found {self.seed!r}")
        for name in ("max_prompt_tokens", "max_completion_tokens", "concurrent_rollouts", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, found {value!r}")
        group = self.max_prompt_tokens + self.samples * self.max_completion_tokens
        if self.cached_tokens < group:
            raise ConfigError(
                "cached_tokens must be room for one group, max_prompt_tokens + samples * max_completion_tokens = "
                f"{group}, found {self.cached_tokens}"
            )

    @property
    def steps_per_batch(self) -> int:
        """Return how many steps are sampled and written together."""
        return _ROUNDS * max(1, self.concurrent_rollouts // self.samples)


def profile_set(
    steps: Path,
    model: Path,
    options: ProfileOptions,
    *,
    domain: Domain,
    part: Part = "train",
    out: Path | None = None,
    limit: int | None = None,
    console: Console | None = None,
) -> Profile:
    """Profile the steps of a set that its profile lacks, and return the whole profile.

    Args:
        steps: Folder of the set.
        model: Folder of the model that is sampled from: the one that training starts from.
        options: How steps are sampled.
        domain: Prompts and rewards.
        part: Which part of the set.
        out: The profile's file; None = PROFILE in the set's folder.
        limit: Only the first so many steps; a later call may go on with more. None = all.
        console: Where progress is shown.

    Raises:
        ConfigError: the file holds a profile of another set, model or options.
        DataError: the set or the file is damaged.
        ModelError: the model folder lacks something.
        CheckpointError: the profile cannot be written.
        KeyboardInterrupt: stopped by the user; the same call goes on after the last batch.
    """
    header = _header(steps, model, options, domain, part)
    path = out or steps / PROFILE
    num_steps = _num_steps(steps, part, limit)
    with open_profile(path, header) as writer:
        if len(writer.done) < num_steps:
            policy, sampler = _load(model, options)

            def profile_batch(batch: Sequence[StepExample], on_step: Callable[[], None]) -> list[StepProfile]:
                return profile_steps(
                    batch, policy=policy, sampler=sampler, domain=domain, options=options, on_step=on_step
                )

            batches = batched(islice(read_steps(steps, part), limit), options.steps_per_batch)
            _profile_batches(batches, num_steps, profile_batch, writer, console or Console(stderr=True))
    return read_profile(path)


def profile_steps(
    examples: Sequence[StepExample],
    *,
    policy: "Policy",
    sampler: "Sampler",
    domain: Domain,
    options: ProfileOptions,
    on_step: Callable[[], None] | None = None,
) -> list[StepProfile]:
    """Sample and score one group for each step, in order; those with too long a prompt are told as skipped."""
    from srl_swe.training.batches import longest_prompt
    from srl_swe.training.rollouts import sample_groups

    longest = longest_prompt(policy, options.max_prompt_tokens, options.max_completion_tokens)
    prompts = [policy.encode_prompt(domain.render(example)) for example in examples]
    fitting = [place for place, prompt in enumerate(prompts) if len(prompt) <= longest]
    groups = sample_groups(
        [examples[place] for place in fitting],
        [prompts[place] for place in fitting],
        num_rollouts=options.samples,
        max_completion_tokens=options.max_completion_tokens,
        temperature=options.temperature,
        seed=[step_seed(options.seed, examples[place].example_id) for place in fitting],
        sampler=sampler,
        domain=domain,
        on_prompt_done=on_step,
    )
    found = dict(zip(fitting, groups, strict=True))
    return [
        _profiled(found[place], len(prompt))
        if place in found
        else StepProfile(example_id=examples[place].example_id, prompt_tokens=len(prompt), skipped=TOO_LONG)
        for place, prompt in enumerate(prompts)
    ]


def step_seed(seed: int, example_id: str) -> int:
    """Return the seed of a step's random numbers, which depend on nothing else."""
    digest = hashlib.sha256(f"{seed}:{example_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> 1


def batched(examples: Iterable[StepExample], size: int) -> Iterator[list[StepExample]]:
    """Cut a stream into lists of this size; the last one may be shorter."""
    stream = iter(examples)
    while batch := list(islice(stream, size)):
        yield batch


def _profile_batches(
    batches: Iterable[Sequence[StepExample]],
    num_steps: int,
    profile_batch: Callable[[Sequence[StepExample], Callable[[], None]], list[StepProfile]],
    writer: ProfileWriter,
    console: Console,
) -> None:
    """Profile what is not there yet, batch by batch."""
    columns = (
        TextColumn("profiling"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(),
        TextColumn("ETA"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, speed_estimate_period=86_400) as progress:
        num_done = 0
        task = progress.add_task("", total=num_steps, completed=len(writer.done))
        # Without a first moment, the steps that end together first would seem to have taken no time.
        progress.advance(task, 0)
        for batch in batches:
            lacking = {example.example_id for example in batch} - writer.done
            if lacking:
                profiled = profile_batch(batch, lambda: progress.advance(task))
                writer.append(step.as_record() for step in profiled if step.example_id in lacking)
            num_done += len(batch)
            progress.update(task, completed=max(num_done, len(writer.done)))
            if lacking and not console.is_terminal:
                left = progress.tasks[0].time_remaining
                about = "" if left is None else f", about {left:.0f} s left"
                console.print(f"profiled {num_done} of {num_steps} steps{about}", highlight=False)


def _profiled(group: Group, prompt_tokens: int) -> StepProfile:
    return StepProfile(
        example_id=group.example_id,
        prompt_tokens=prompt_tokens,
        rewards=tuple(rollout.reward for rollout in group.rollouts),
        well_formed=sum(bool(rollout.reward_parts["well_formed"]) for rollout in group.rollouts),
        similarity_std=population_std(well_formed_similarities(group)),
    )


def _header(steps: Path, model: Path, options: ProfileOptions, domain: Domain, part: Part) -> ProfileHeader:
    return ProfileHeader(
        content_hash=str(read_manifest(steps)["content_hash"]),
        part=part,
        model=str(model),
        model_fingerprint=fingerprint_model(model),
        samples=options.samples,
        temperature=options.temperature,
        seed=options.seed,
        max_prompt_tokens=options.max_prompt_tokens,
        max_completion_tokens=options.max_completion_tokens,
        dtype=options.dtype,
        prompts=dict(domain.options),
    )


def _num_steps(steps: Path, part: Part, limit: int | None) -> int:
    counts = read_manifest(steps).get("num_examples")
    count = counts.get(part) if isinstance(counts, dict) else None
    if not isinstance(count, int):
        raise DataError(f"{steps}: its manifest does not say how many step examples part {part} has; compile it again")
    return count if limit is None else min(count, limit)


def _load(model: Path, options: ProfileOptions) -> "tuple[Policy, Sampler]":
    import torch
    from transformers.utils import logging as transformers_logging

    from srl_swe.training.policy import Policy
    from srl_swe.training.transformers_sampler import TransformersSampler

    # Its bar for reading weights would fight with ours.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else "cpu"
    policy = Policy.from_pretrained(model, compute_dtype=getattr(torch, options.dtype), device=device)
    return policy, TransformersSampler(
        policy, cached_tokens=options.cached_tokens, concurrent_rollouts=options.concurrent_rollouts
    )
