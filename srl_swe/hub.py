"""Trajectories of a data set on the Hugging Face hub, streamed: nothing but what is in work is held or stored."""

import re
from collections.abc import Iterator
from pathlib import Path

from srl_swe.errors import DataError, MissingExtraError
from srl_swe.trajectories.compilation import Tables
from srl_swe.trajectories.inputs import Chunk, table_content

_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<split>[\w.-]+))?")
_ROWS = 16


def is_hub_name(text: str) -> bool:
    """Tell whether a text can be the name of a hub data set: "owner/name" or "owner/name:split"."""
    return _NAME.fullmatch(text) is not None


def hub_tables(text: str) -> Tables:
    """Return the rows of a data set, all of its splits unless one is named. Nothing is fetched yet.

    Rows that are not understood are counted as in a folder; a whole data set of them is an error.
    """
    found = _NAME.fullmatch(text)
    assert found is not None, f"{text!r} is no hub name"
    return Tables(name=text, chunks=lambda input_index: _chunks(found["name"], found["split"], input_index))


def _chunks(name: str, split: str | None, input_index: int) -> Iterator[Chunk]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading a data set of the hub needs the package datasets: pip install 'srl-swe[data]'"
        ) from error
    try:
        loaded = load_dataset(name, split=split, streaming=True)
        for part, rows in {split: loaded}.items() if split else loaded.items():
            first_row = 0
            for table in rows.with_format("arrow").iter(batch_size=_ROWS):
                yield Chunk(
                    path=Path(f"{name}:{part}"),
                    is_named=False,
                    input_index=input_index,
                    kind="table",
                    content=table_content(table),
                    first_row=first_row,
                )
                first_row += table.num_rows
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name}: neither a file or folder here, nor a data set that the hub gives: {error}. Check the spelling "
            "and the network; the same command then goes on. Without a network, name a local .parquet or .jsonl "
            "file of the same rows"
        ) from error
