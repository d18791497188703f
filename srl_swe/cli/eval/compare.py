"""`srl-swe eval compare`: two evaluations, instance by instance."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from srl_swe.evaluation.comparison import Comparison, compare
from srl_swe.evaluation.progress import printable
from srl_swe.evaluation.record import read_record
from srl_swe.files import write_atomically

_SHOWN = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """Compare two evaluations of the same instances: McNemar's exact test, the difference, and what changed.

    Instances that only one of them asked for are listed and left out; instances that are judged by different tests
    under the same id are refused.
    """

    first: Annotated[Path, tyro.conf.Positional]
    """Output folder of an evaluation."""
    second: Annotated[Path, tyro.conf.Positional]
    """Output folder of the other one; the difference is this one minus the first."""
    out: Path | None = None
    """Also write the comparison as JSON."""


def compare_folders(config: CompareConfig) -> int:
    """Print the comparison."""
    found = compare(read_record(config.first), read_record(config.second))
    console = Console()
    console.print(_rates(found, (config.first, config.second)))
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if config.out is not None:
        write_atomically(config.out, json.dumps({"schema_version": 1, **asdict(found)}, indent=2) + "\n")
    return 0


def _rates(found: Comparison, folders: tuple[Path, Path]) -> Table:
    table = Table(title=f"Resolve rate over {found.num_pairs} instances that both judged", box=SIMPLE, pad_edge=False)
    for heading in ("evaluation", "model", "% (95 % Wilson)", "resolved alone"):
        table.add_column(heading, overflow="fold", justify="left" if heading in ("evaluation", "model") else "right")
    alone = (found.only_first, found.only_second)
    for folder, model, rate, only in zip(folders, found.models, found.rates, alone, strict=True):
        share, low, high = (100 * value for value in rate)
        table.add_row(Text(str(folder)), Text(model), f"{share:.1f} ({low:.1f}-{high:.1f})", str(len(only)))
    return table


def _lines(found: Comparison) -> list[str]:
    if found.difference_low is None or found.difference_high is None:
        interval = "no interval: the outcomes do not vary"
    else:
        interval = f"95 % paired bootstrap {100 * found.difference_low:+.1f} to {100 * found.difference_high:+.1f}"
    lines = [
        f"second minus first: {100 * found.difference:+.1f} points ({interval})",
        f"McNemar's exact test: p = {found.p_value:.3g}, {len(found.only_first) + len(found.only_second)} instances "
        f"changed, {found.num_both} resolved by both",
    ]
    for title, other, names in (
        ("only the first resolves", "second", found.only_first),
        ("only the second resolves", "first", found.only_second),
    ):
        if names:
            lines.append(f"{title} ({len(names)}):")
            lines += [f"  {name} (the {other}: {found.reasons[name]})" for name in names[:_SHOWN]]
            lines += [f"  and {len(names) - _SHOWN} more (--out FILE has all)"] if len(names) > _SHOWN else []
    for title, names in (
        ("only in the first evaluation", found.unmatched_first),
        ("only in the second evaluation", found.unmatched_second),
        ("left out", tuple(f"{name} ({reason})" for name, reason in found.left_out.items())),
    ):
        if names:
            more = f", and {len(names) - _SHOWN} more (--out FILE has all)" if len(names) > _SHOWN else ""
            lines.append(f"{title} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")
    return [printable(line) for line in lines]
