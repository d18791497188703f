"""The report on a compiled set as data: everything its page shows, none of how it looks."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srl_swe.curation.lengths import Distribution, Measure, characters, length_distributions, tokens_of
from srl_swe.curation.outcomes import ProfileOutcome, ProfileTally, ReplaySummary, ReplayTally
from srl_swe.curation.reward_floor import Floor, reward_floor
from srl_swe.curation.shared_prefixes import PrefixSharing, prefix_sharing
from srl_swe.curation.survey import SampledStep, SampleSizes, Survey, survey_set
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.rewards import similarity
from srl_swe.trajectories.store import read_manifest
from srl_swe.types import CompiledTrajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """What is measured, and on how much of the set."""

    tokenizer: str | None = None
    """Model folder, or name on the hub, whose tokens lengths are counted in; by default characters are counted."""
    limits: PromptLimits = field(default_factory=PromptLimits)
    rollouts_per_prompt: int = 8
    """Size of a group, for the share of a batch that is shared prefix (the paper: 8)."""
    sample_steps: int = 1000
    """Step examples on which lengths are measured, drawn by the seed."""
    scored_steps: int = 4000
    """Step examples of validation (of train where that is empty) on which the reward floor is measured."""
    sample_trajectories: int = 50
    """Trajectories on which shared prefixes are measured, drawn by the seed."""
    num_examples: int = 5
    """Step examples shown in full, of different kinds as far as there are."""
    seed: int = 0
    """Another seed, other samples."""

    def __post_init__(self) -> None:
        for name, least in (
            ("rollouts_per_prompt", 1),
            ("sample_steps", 1),
            ("scored_steps", 1),
            ("sample_trajectories", 1),
            ("num_examples", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, found {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownStep:
    """A step example to read."""

    step: SampledStep
    copy_last: float | None
    """Similarity of the last action of the context; None where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetReport:
    """What is known of a compiled set."""

    name: str
    """Of the set's folder."""
    manifest: Mapping[str, object]
    options: ReportOptions
    survey: Survey
    measure: Measure
    lengths: tuple[Distribution, ...]
    sharing: tuple[PrefixSharing, ...]
    """With the limits' history, and with all of it where that differs."""
    floors: tuple[Floor, ...]
    """Over all steps first, then by kind."""
    replay: ReplaySummary | None
    """None = the set was not replayed."""
    profile: ProfileOutcome | None
    """None = the set was not profiled."""
    shown: tuple[ShownStep, ...]

    def length(self, name: str) -> Distribution:
        """Return one of the length distributions."""
        return next(each for each in self.lengths if each.name == name)


def make_report(folder: Path, options: ReportOptions, *, console: Console | None = None) -> SetReport:
    """Measure a set.

    Args:
        folder: The set.
        options: What is measured.
        console: Where progress is shown; None = nowhere.

    Raises:
        DataError: there is no such set, or it, its replay or its profile is damaged.
        ModelError: the tokenizer cannot be loaded.
        MissingExtraError: a tokenizer is asked for, and transformers is not installed.
    """
    manifest = read_manifest(folder)
    measure = tokens_of(options.tokenizer) if options.tokenizer else characters()
    replay, profile = ReplayTally(folder), ProfileTally(folder)
    sizes = SampleSizes(
        steps=options.sample_steps,
        scored_steps=options.scored_steps,
        trajectories=options.sample_trajectories,
        seed=options.seed,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console is None) as progress:
        reading = progress.add_task("reading trajectories", total=_num_trajectories(manifest))

        def see(compiled: CompiledTrajectory) -> None:
            replay.add(compiled)
            profile.add(compiled)
            progress.advance(reading)

        survey = survey_set(folder, sizes, options.limits, on_trajectory=see)
        counting = progress.add_task(f"counting {measure.unit}", total=None)
        lengths = length_distributions(survey, measure)
        progress.remove_task(counting)
        sharing = _sharing(survey, measure, options, progress)
        progress.add_task("scoring blind guesses", total=None)
        floors = reward_floor(survey.scored_steps, survey.common)
    return SetReport(
        name=folder.resolve().name,
        manifest=manifest,
        options=options,
        survey=survey,
        measure=measure,
        lengths=lengths,
        sharing=sharing,
        floors=floors,
        replay=replay.result(),
        profile=profile.result(),
        shown=_shown(survey, options),
    )


def _sharing(survey: Survey, measure: Measure, options: ReportOptions, progress: Progress) -> tuple[PrefixSharing, ...]:
    whole = PromptLimits(history=None, max_observation_chars=options.limits.max_observation_chars)
    every = (options.limits, whole) if options.limits.history is not None else (whole,)
    task = progress.add_task("comparing prefixes", total=len(every) * len(survey.trajectories))
    return tuple(
        prefix_sharing(
            survey.trajectories,
            measure,
            limits,
            rollouts_per_prompt=options.rollouts_per_prompt,
            on_trajectory=lambda: progress.advance(task),
        )
        for limits in every
    )


def _shown(survey: Survey, options: ReportOptions) -> tuple[ShownStep, ...]:
    """Choose examples: one of each kind in random order first, then others."""
    shuffled = list(survey.steps)
    random.Random(options.seed).shuffle(shuffled)
    firsts = {step.kind: step for step in reversed(shuffled)}
    leading = [step for step in shuffled if firsts[step.kind] is step]
    chosen = [*leading, *(step for step in shuffled if firsts[step.kind] is not step)][: options.num_examples]
    return tuple(
        ShownStep(
            step=step,
            copy_last=None if step.previous_action is None else similarity(step.previous_action, step.action),
        )
        for step in chosen
    )


def _num_trajectories(manifest: Mapping[str, object]) -> int | None:
    counts = manifest.get("num_trajectories")
    values = list(counts.values()) if isinstance(counts, dict) else []
    return sum(values) if values and all(isinstance(value, int) for value in values) else None
