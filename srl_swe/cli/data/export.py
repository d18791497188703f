"""`srl-swe data export`: a compiled set as files of other trainers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from srl_swe.curation.exports.writing import export_steps
from srl_swe.prompts import PromptLimits
from srl_swe.trajectories.store import PARTS, read_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write step examples as files of another trainer, with a README that says how they and their reward are used."""

    steps: Annotated[Path, tyro.conf.Positional]
    """Folder that `srl-swe data compile` wrote."""
    to: Literal["trl", "verl", "nemo-gym", "chat"]
    """trl: prompts and expert actions for GRPO; verl: its parquet (needs srl-swe[data]); nemo-gym: rows and a resources
    server; chat: messages for SFT, without the examples whose expert wrote no thought."""
    out: Path
    """Folder of the export; an older export there is replaced at the end, in one instant."""
    history: int | Literal["all"] = 2
    """Number of last (action, observation) pairs shown in prompts (the paper shows 2)."""
    max_observation_chars: int = 4000
    """Longer observations lose their middle in prompts."""

    def __post_init__(self) -> None:
        _ = self.limits

    @property
    def limits(self) -> PromptLimits:
        """Return how much context prompts show; raises ConfigError where an option is out of range."""
        history = None if self.history == "all" else self.history
        return PromptLimits(history=history, max_observation_chars=self.max_observation_chars)


def export(config: ExportConfig) -> int:
    """Write the export, and print what was written and what was left out."""
    totals = read_manifest(config.steps).get("num_examples")
    total = sum(totals.get(part, 0) for part in PARTS) if isinstance(totals, dict) else None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("exporting", total=total)
        written = export_steps(
            config.steps, config.out, config.to, limits=config.limits, on_example=lambda: progress.advance(bar)
        )
    console = Console()
    lines = [f"{part}: {count} rows" for part, count in written.num_rows.items()]
    lines += [f"left out: {count} ({reason})" for reason, count in written.left_out.items()]
    lines.append(f"written to {config.out}; how it is used: {config.out / 'README.md'}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
