"""Writes an export: streamed, as a whole folder that appears at the end, with README, data sheet and `export.json`."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import orjson

from srl_swe import __version__
from srl_swe.curation.exports.chat import CHAT
from srl_swe.curation.exports.nemo_gym import NEMO_GYM
from srl_swe.curation.exports.target import Export, Place, Row, Target
from srl_swe.curation.exports.trl import TRL
from srl_swe.curation.exports.verl import VERL
from srl_swe.errors import DataError, MalformedCompletionError, MissingExtraError
from srl_swe.files import staged_folder
from srl_swe.prompts import PromptLimits, render
from srl_swe.trajectories.datasheet import data_sheet
from srl_swe.trajectories.store import PARTS, Part, read_manifest, read_steps

TARGETS: Mapping[str, Target] = {"trl": TRL, "verl": VERL, "nemo-gym": NEMO_GYM, "chat": CHAT}

MARKER = "export.json"
"""In every export; a folder without it is never replaced."""
_OWN_FILES = frozenset(
    {MARKER, "README.md", "DATASHEET.md", "resources_servers"}
    | {f"{part}{suffix}" for part in PARTS for suffix in (".jsonl", ".parquet")}
)
_ROW_GROUP_ROWS = 1000
_ROW_GROUP_CHARS = 32_000_000
"""Of prompts. What a parquet file's writer holds in memory, about."""


class _Writer(Protocol):
    def write(self, row: Row) -> None: ...


def export_steps(
    steps: Path,
    folder: Path,
    target_name: str,
    *,
    limits: PromptLimits,
    on_example: Callable[[], None] = lambda: None,
) -> Export:
    """Write a set of step examples as files of a target, replacing an older export at the end.

    Args:
        steps: Folder of the compiled set.
        folder: Where the export goes; missing parents are made.
        target_name: A key of `TARGETS`.
        limits: How much context the prompts show.
        on_example: Called after each example, written or left out.

    Raises:
        DataError: the set cannot be read, no row is left, or `folder` is something other than an export.
        MissingExtraError: the target is a parquet file and pyarrow is not installed.
    """
    target = TARGETS[target_name]
    manifest = read_manifest(steps)
    _check_is_export(folder)
    num_rows: dict[Part, int] = {}
    left_out: Counter[str] = Counter()
    with staged_folder(folder, own_files=_OWN_FILES) as staging:
        (staging / target.data_folder).mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            path = staging / target.data_folder / f"{part}{target.suffix}"
            written = _write_part(steps, part, path, target, limits=limits, left_out=left_out, on_example=on_example)
            if written:
                num_rows[part] = written
            else:
                path.unlink()
        if not num_rows:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in left_out.items())
            raise DataError(f"{steps}: no example can be written for {target.title} ({reasons or 'the set is empty'})")
        export = Export(manifest=manifest, limits=limits, num_rows=num_rows, left_out=left_out)
        for name, text in _texts(target_name, target, export).items():
            _write_text(staging / name, text)
    return export


def _check_is_export(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise DataError(
            f"{folder}: not an export of srl-swe ({MARKER} is missing), so it is not replaced; name a new one"
        )


def _write_part(
    steps: Path,
    part: Part,
    path: Path,
    target: Target,
    *,
    limits: PromptLimits,
    left_out: Counter[str],
    on_example: Callable[[], None],
) -> int:
    """Write the rows of one part and return how many there are."""
    written = 0
    with (_parquet if target.suffix == ".parquet" else _json_lines)(path) as writer:
        for index, example in enumerate(read_steps(steps, part)):
            prompt = render(example.problem_statement, example.history, limits)
            try:
                row = target.row(example, prompt, Place(part=part, index=index))
            except MalformedCompletionError as error:
                left_out[str(error)] += 1
            else:
                writer.write(row)
                written += 1
            on_example()
    _sync(path)
    return written


class _JsonLines:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, row: Row) -> None:
        self._stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[_Writer]:
    with path.open("wb") as stream:
        yield _JsonLines(stream)


class _RowGroups:
    """Collects rows to row groups. The first group's types are the file's: every row has the same fields."""

    def __init__(self, pyarrow: Any, path: Path) -> None:
        self._pyarrow = pyarrow
        self._path = path
        self._writer: Any = None
        self._rows: list[Row] = []
        self._chars = 0

    def write(self, row: Row) -> None:
        self._rows.append(row)
        self._chars += sum(len(message["content"]) for message in row["prompt"])
        if len(self._rows) >= _ROW_GROUP_ROWS or self._chars >= _ROW_GROUP_CHARS:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        table = self._pyarrow.Table.from_pylist(self._rows)
        if self._writer is None:
            self._writer = self._pyarrow.parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self._rows, self._chars = [], 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[_Writer]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("writing parquet needs pyarrow: pip install 'srl-swe[data]'") from error
    path.touch()
    groups = _RowGroups(pyarrow, path)
    try:
        yield groups
        groups.flush()
    finally:
        groups.close()


def _texts(target_name: str, target: Target, export: Export) -> dict[str, str]:
    """Return the files besides the rows, by path in the export."""
    record = {
        "srl_swe_version": __version__,
        "target": target_name,
        "content_hash": export.manifest.get("content_hash"),
        "options": asdict(export.limits),
        "num_rows": export.num_rows,
        "left_out": export.left_out,
    }
    return {
        MARKER: json.dumps(record, indent=2, ensure_ascii=False) + "\n",
        "README.md": _read_me(target_name, target, export),
        "DATASHEET.md": data_sheet(export.manifest),
        **target.further_files(export),
    }


def _read_me(target_name: str, target: Target, export: Export) -> str:
    history = "all" if export.limits.history is None else export.limits.history
    lines = [
        f"# Step examples for {target.title}",
        "",
        f"Written by `srl-swe data export --to {target_name} --history {history} "
        f"--max-observation-chars {export.limits.max_observation_chars}` (srl_swe {__version__}).",
        "",
        "| file | rows |",
        "|---|---|",
        *(
            f"| {Path(target.data_folder, f'{part}{target.suffix}')} | {count} |"
            for part, count in export.num_rows.items()
        ),
        *(f"| left out: {reason} | {count} |" for reason, count in export.left_out.items()),
        "",
        "## Use",
        "",
        target.usage(export).rstrip(),
        "",
        "## Source",
        "",
        f"Content hash of the set: `{export.manifest.get('content_hash', '')}`. DATASHEET.md tells how it was made.",
        "",
        *(f"- {name}: {licence}" for name, licence in export.licences.items()),
        "",
        "Code that shows in prompts keeps the licence of its repository.",
    ]
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
