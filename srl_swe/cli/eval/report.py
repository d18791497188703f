"""`srl-swe eval report`: the pages of an evaluation that is on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from srl_swe.evaluation.report_pages import make_pages
from srl_swe.evaluation.samples import SAMPLES_FILE, read_samples_record
from srl_swe.evaluation.samples_page import make_samples_page


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write report.html and a page per instance into an evaluation's folder; no engine and no task rows are needed.

    `srl-swe eval` does the same at its end. The pages need no network and no scripts. Of an evaluation with --samples
    the pages of every sample are written, and one over all of them.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """Output folder of `srl-swe eval`."""


def report(config: ReportConfig) -> int:
    """Write the pages."""
    if (config.folder / SAMPLES_FILE).is_file():
        for folder in read_samples_record(config.folder).folders:
            make_pages(config.folder / folder)
        path = make_samples_page(config.folder)
    else:
        path = make_pages(config.folder)
    Console().print(f"written to {path}; open it in a browser", markup=False, highlight=False, soft_wrap=True)
    return 0
