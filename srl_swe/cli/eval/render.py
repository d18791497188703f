"""`srl-swe eval render`: rows of older SWE-bench schemas become v5 rows, once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from srl_swe.evaluation.rendering import render_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """Give rows of older SWE-bench schemas the image and the evaluation script that v5 rows of the same instances have.

    The result is stored and needs no network any more. A row that has no v5 row, or judges otherwise, is refused.

    srl-swe eval render old.jsonl --like verified_test.parquet --out rows.jsonl
    """

    file: Annotated[Path, tyro.conf.Positional]
    """Rows of an older schema (.jsonl, .json, .parquet); v5 rows among them stay as they are."""
    like: tuple[Path, ...]
    """Files of v5 rows that have these instances; the first one that has an instance counts."""
    out: Path
    """File of the v5 rows (.jsonl)."""


def render(config: RenderConfig) -> int:
    """Write the rows."""
    rendered = render_rows(config.file, config.like, config.out)
    unchanged = f", {rendered.num_unchanged} were v5 already" if rendered.num_unchanged else ""
    Console().print(
        f"{rendered.num_filled_in} rows filled in{unchanged}; written to {config.out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0
