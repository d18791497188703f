"""Files and folders -> chunks of rows that are read together, in bounded memory.

What a file is, its content says: gzip, zstd and parquet by their first bytes, JSON lines or one JSON document by the
first line. Leaves out what a row means (`formats`).
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import orjson
import zstandard

from srl_swe.errors import DataError, MissingExtraError

ENDINGS = (
    *(f"{ending}{packed}" for ending in (".json", ".jsonl", ".traj") for packed in ("", ".gz", ".zst")),
    ".parquet",
)
"""Files of a folder that are looked into; a file that is named may have any name."""

Problem = Literal["bad_file", "row_too_large"]
"""The same words as `formats.drops.Reason`."""

MAX_ROW_BYTES = 64 * 2**20
"""A row (or a JSON document) beyond this is refused: parsed, it takes several times as much memory."""
CHUNK_BYTES = 2 * 2**20
_TABLE_ROWS = 16
_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One file to read."""

    path: Path
    is_named: bool
    """The user named this very file, so all of it must be understood; else it was found in a folder."""
    input_index: int
    """Which of the user's paths it belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Rows of one file that are read together."""

    path: Path
    is_named: bool
    input_index: int
    kind: Literal["lines", "document", "table", "problem"]
    """JSON lines; one JSON document; an Arrow stream of rows; nothing but a problem."""
    content: bytes
    first_row: int = 0
    position_bytes: int = 0
    """How far the file was read, compressed bytes."""
    problem: Problem | None = None
    """Kind "problem": why something of the file cannot be used; `content` says where and what to do."""


def list_files(paths: Sequence[Path]) -> list[InputFile]:
    """Return the files of paths, those of a folder (recursively) in the order of their names.

    Raises:
        DataError: a path does not exist.
    """
    files: list[InputFile] = []
    for input_index, path in enumerate(paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS) and file.is_file())
            files.extend(InputFile(path=file, is_named=False, input_index=input_index) for file in found)
        elif path.exists():
            files.append(InputFile(path=path, is_named=True, input_index=input_index))
        else:
            raise DataError(f"{path}: no such file or folder; expected trajectories ({', '.join(ENDINGS)})")
    return files


def read_chunks(file: InputFile) -> Iterator[Chunk]:
    """Yield a file's rows in chunks of about `CHUNK_BYTES`, one at a time.

    What is broken in a file of a folder comes as a chunk of kind "problem".

    Raises:
        DataError: a named file is broken (rows before the break were yielded), or any file cannot be opened.
        MissingExtraError: a parquet file, and pyarrow is not installed.
    """
    try:
        with file.path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic == b"PAR1":
                yield from _table_chunks(file)
            else:
                yield from _text_chunks(file, raw, magic)
    except _BROKEN as error:
        yield _problem(
            file, "bad_file", f"{file.path}: compressed data ends or breaks inside ({error}); fetch the file again"
        )
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from error


def rows_of(chunk: Chunk) -> Iterator[tuple[str, object]]:
    """Yield (place, row) of a chunk's rows; a row that is no JSON comes as the `ValueError` that it raised."""
    if chunk.kind == "table":
        import pyarrow

        with pyarrow.ipc.open_stream(chunk.content) as table:
            for index, row in enumerate(table.read_all().to_pylist()):
                yield f"{chunk.path}, row {chunk.first_row + index}", row
    elif chunk.kind == "lines":
        for index, line in enumerate(chunk.content.split(b"\n")):
            if line.strip():
                yield f"{chunk.path}, row {chunk.first_row + index}", _parsed(line)
    elif chunk.kind == "document":
        yield from _document_rows(chunk.path, _parsed(chunk.content))


def parse_json(content: bytes) -> object:
    """Parse JSON as leniently as published files need: bytes that are no UTF-8, NaN, lone surrogates.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def table_content(table: Any) -> bytes:
    """Return an Arrow table or batch as the bytes of a chunk of kind "table"."""
    import pyarrow

    sink = BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return sink.getvalue()


def _parsed(content: bytes) -> object:
    try:
        return parse_json(content)
    except ValueError as error:
        return error


def _document_rows(path: Path, document: object) -> Iterator[tuple[str, object]]:
    if not isinstance(document, list):
        yield str(path), document
    elif document and all(isinstance(item, Mapping) and "role" in item for item in document):
        yield str(path), {"messages": document}
    else:
        for index, row in enumerate(document):
            yield f"{path}, row {index}", row


def _problem(file: InputFile, problem: Problem, message: str) -> Chunk:
    if file.is_named:
        raise DataError(message)
    return Chunk(
        path=file.path,
        is_named=False,
        input_index=file.input_index,
        kind="problem",
        content=message.encode("utf-8", "surrogateescape"),
        problem=problem,
    )


def _table_chunks(file: InputFile) -> Iterator[Chunk]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{file.path}: reading parquet needs the package pyarrow: pip install 'srl-swe[data]'"
        ) from error
    first_row = 0
    try:
        with parquet.ParquetFile(file.path, pre_buffer=False) as table:
            size, num_rows = file.path.stat().st_size, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=_TABLE_ROWS):
                yield Chunk(
                    path=file.path,
                    is_named=file.is_named,
                    input_index=file.input_index,
                    kind="table",
                    content=table_content(batch),
                    first_row=first_row,
                    position_bytes=size * (first_row + batch.num_rows) // num_rows,
                )
                first_row += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        message = f"{file.path}: not a whole parquet file (after row {first_row}: {error}); fetch it again"
        yield _problem(file, "bad_file", message)


@contextmanager
def _unpacked(raw: IO[bytes], magic: bytes) -> Iterator[IO[bytes]]:
    if magic[:2] == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]  # it has what is used of IO
    elif magic == b"\x28\xb5\x2f\xfd":
        with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False) as stream:
            yield stream
    else:
        yield raw


def _text_chunks(file: InputFile, raw: IO[bytes], magic: bytes) -> Iterator[Chunk]:
    with _unpacked(raw, magic) as stream:
        pieces = _pieces(stream)
        start = _up_to_line_end(pieces)
        start = start.removeprefix(b"\xef\xbb\xbf")
        if _are_lines(start, file.path):
            yield from _line_chunks(file, raw, itertools.chain([start], pieces))
            return
        document = bytearray(start)
        for piece in pieces:
            document += piece
            if len(document) > MAX_ROW_BYTES:
                break
    if len(document) > MAX_ROW_BYTES:
        yield _problem(file, "row_too_large", _too_large(f"{file.path}: one JSON document"))
        return
    yield Chunk(
        path=file.path,
        is_named=file.is_named,
        input_index=file.input_index,
        kind="document",
        content=bytes(document),
        position_bytes=raw.tell(),
    )


def _too_large(what: str) -> str:
    return (
        f"{what} of more than {MAX_ROW_BYTES // 2**20} MiB without an end; rows are held in memory one by one. Write "
        "one trajectory a line: jq -c '.[]' FILE > FILE.jsonl (or '.' where it is JSON lines without line breaks)"
    )


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(CHUNK_BYTES):
        yield piece


def _up_to_line_end(pieces: Iterator[bytes]) -> bytes:
    """Read until a line break was read, the end, or more than a row may have."""
    content = bytearray()
    for piece in pieces:
        content += piece
        if b"\n" in piece or len(content) > MAX_ROW_BYTES:
            break
    return bytes(content)


def _are_lines(start: bytes, path: Path) -> bool:
    """Tell whether a file that begins so holds one row a line, or is one document."""
    first, line_break, rest = start.partition(b"\n")
    named_lines = ".jsonl" in path.suffixes
    if not line_break or not rest.strip():
        return named_lines and first.strip() not in (b"{", b"[")
    try:
        parse_json(first)
    except ValueError:
        return named_lines and first.strip() not in (b"{", b"[")
    return True


def _line_chunks(file: InputFile, raw: IO[bytes], pieces: Iterator[bytes]) -> Iterator[Chunk]:
    row, rest, is_skipping = 0, bytearray(), False
    for piece in itertools.chain(pieces, [b"\n"]):
        end = piece.rfind(b"\n") + 1
        rest += piece[:end] if end else b"" if is_skipping else piece
        if not end:
            if len(rest) > MAX_ROW_BYTES:
                yield _problem(file, "row_too_large", _too_large(f"{file.path}, row {row}: a line"))
                is_skipping, rest = True, bytearray()
            continue
        lines, rest = bytes(rest), bytearray(piece[end:])
        if is_skipping:
            lines, is_skipping, row = lines[lines.index(b"\n") + 1 :], False, row + 1
        if lines.strip():
            yield Chunk(
                path=file.path,
                is_named=file.is_named,
                input_index=file.input_index,
                kind="lines",
                content=lines,
                first_row=row,
                position_bytes=raw.tell(),
            )
        row += lines.count(b"\n")
