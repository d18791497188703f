"""`srl-swe eval report`: the pages of an evaluation that is on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from srl_swe.evaluation.report_pages import make_pages


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write report.html and a page per instance into an evaluation's folder; no engine and no task rows are needed.

    `srl-swe eval` does the same at its end. The pages need no network and no scripts.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Output folder of `srl-swe eval`."""


def report(config: ReportConfig) -> int:
    """Write the pages."""
    path = make_pages(config.folder)
    Console().print(f"written to {path}; open it in a browser", markup=False, highlight=False, soft_wrap=True)
    return 0
