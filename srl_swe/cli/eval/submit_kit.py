"""`srl-swe eval submit-kit`: what the leaderboard and sb-cli ask for, written and checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from srl_swe.errors import ConfigError
from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.splits import HUB_SPLITS, load_split
from srl_swe.evaluation.submission import BOARDS, README, About, BoardName, write_kit
from srl_swe.evaluation.submission_checks import check_kit, reminders


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitKitConfig:
    """Write a finished evaluation as a submission to the SWE-bench leaderboard, and check it.

    The folder has what SWE-bench/experiments asks for: all_preds.jsonl, metadata.yaml, README.md, results/, logs/ and
    trajs/; sb-cli takes the same all_preds.jsonl. Written again, metadata.yaml and README.md stay as they are: fill
    them in, and check again with --check-only.

    srl-swe eval submit-kit runs/eval-a --out 20260131_my-agent --name "My agent" --model my-model

    srl-swe eval submit-kit runs/eval-a --out 20260131_my-agent --check-only
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Output folder of `srl-swe eval`."""
    out: Path
    """Folder of the kit. Its name is the submission's: date and name, for example 20260131_my-agent."""
    board: BoardName | None = None
    """Leaderboard; default: that of the split which was evaluated."""
    instances: Path | None = None
    """The rows that were evaluated; default: the split that was evaluated, from the hub."""
    trajectories: Path | None = None
    """Reasoning traces, files or folders named after their instances; default: those of the evaluation."""
    about: Annotated[About, tyro.conf.arg(name="")] = field(default_factory=About)
    check_only: bool = False
    """Check the kit as it is and write nothing."""


def submit_kit(config: SubmitKitConfig) -> int:
    """Write and check; exit code 0 when nothing is wrong."""
    console = Console()
    split = read_record(config.folder).split
    board = config.board or next((name for name, each in BOARDS.items() if each.split == split), None)
    if board is None:
        raise ConfigError(
            f"{config.folder} is an evaluation of {split or 'an unnamed set'}, which has no leaderboard; name the one "
            f"whose instances these are with --board: {', '.join(BOARDS)}"
        )
    if not config.check_only:
        if config.instances is None and split not in HUB_SPLITS:
            raise ConfigError(f"{config.folder} is an evaluation of {split}: name its file of rows with --instances")
        instances = load_split(str(config.instances or split))
        kept = write_kit(
            config.folder,
            config.out,
            instances,
            board=board,
            about=config.about,
            trajectories=config.trajectories,
        )
        for name in kept:
            more = "; its figures may be older than this evaluation" if name == README else ""
            console.print(f"{name} was there and is kept{more}", markup=False, highlight=False)
        console.print(f"written to {config.out}", markup=False, highlight=False, soft_wrap=True)
    problems = check_kit(config.out, board)
    for problem in problems:
        console.print(f"wrong: {printable(problem)}", markup=False, highlight=False, soft_wrap=True)
    for reminder in () if problems else reminders(config.out, board):
        console.print(f"still yours: {printable(reminder)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(problems)} things are wrong" if problems else "nothing is wrong", highlight=False)
    return 1 if problems else 0
