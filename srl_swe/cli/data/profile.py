"""`srl-swe data profile`: the rewards that a model gets on a set's steps, for training on pivots."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from srl_swe.curation.pivots import QUANTILES, PivotRule, Spread, summarize
from srl_swe.curation.profile import ProfileOptions, profile_set
from srl_swe.curation.profile_file import StepProfile
from srl_swe.errors import ConfigError
from srl_swe.prompts import PromptLimits
from srl_swe.trajectories.store import PROFILE

_MEANINGS: tuple[tuple[Spread, str], ...] = (
    ("similarity", "well-formed completions vary"),
    ("format_only", "only the format varies"),
    ("all_equal", "no spread: all rewards equal"),
    ("all_malformed", "no spread: all malformed"),
    ("skipped", "skipped: prompt too long"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileConfig:
    """Sample each step of a set once from the model that training starts from, and keep the rewards.

    `srl-swe train --profile` then trains on pivots only: steps whose rewards vary and are low on average (PivotRL,
    arXiv 2603.21383). The same command goes on where it stopped. Give the limits of prompts and completions that
    training will have.
    """

    steps: Annotated[Path, tyro.conf.Positional]
    """Folder that `srl-swe data compile` wrote."""
    model: Path
    """Folder of the model to start from."""
    out: Path | None = None
    """File of the profile; default: profile.jsonl in the set's folder."""
    part: Literal["train", "validation"] = "train"
    limit: int | None = None
    """Only the first so many steps; training drops steps that the profile lacks."""
    options: Annotated[ProfileOptions, tyro.conf.arg(name="")] = field(default_factory=ProfileOptions)
    prompts: Annotated[PromptLimits, tyro.conf.arg(name="")] = field(default_factory=PromptLimits)
    rule: Annotated[PivotRule, tyro.conf.arg(name="")] = field(default_factory=PivotRule)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, found {self.limit}")


def profile(config: ProfileConfig) -> int:
    """Profile the set and print where the spread of its rewards comes from."""
    from srl_swe.software_engineering import software_engineering

    found = profile_set(
        config.steps,
        config.model,
        config.options,
        domain=software_engineering(config.prompts),
        part=config.part,
        out=config.out,
        limit=config.limit,
        console=Console(stderr=True),
    )
    console = Console()
    _print_summary(console, found.steps, config.rule)
    path = config.out or config.steps / PROFILE
    next_command = f"srl-swe train --data {config.steps} --model {config.model} --profile {path} --output runs/pivots"
    console.print(f"written to {path}; next: {next_command}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _print_summary(console: Console, steps: tuple[StepProfile, ...], rule: PivotRule) -> None:
    summary = summarize(steps, rule)
    table = Table("steps", "count", "share", title="profile")
    for spread, meaning in _MEANINGS:
        count = summary.spreads.get(spread, 0)
        table.add_row(meaning, str(count), f"{count / len(steps):.1%}" if steps else "")
    table.add_section()
    limit = "" if rule.max_profile_mean is None else f" and mean at most {rule.max_profile_mean:g}"
    kept = f"{summary.num_kept / len(steps):.1%}" if steps else ""
    table.add_row(f"kept: std above {rule.min_profile_std:g}{limit}", str(summary.num_kept), kept)
    console.print(table)
    if summary.mean_quantiles:
        means = Table(*(f"{quantile:.0%}" for quantile in QUANTILES), title="mean reward of a step, by quantile")
        means.add_row(*(f"{mean:.3f}" for mean in summary.mean_quantiles))
        console.print(means)
