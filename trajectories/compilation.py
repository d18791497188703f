"""Files of trajectories -> a set of step examples: many at once, in bounded memory, resumable.

This process reads chunks and tells duplicates, workers parse and compile them; results are taken in the order of the
chunks, so that the set is the same for any number of workers. What is compiled lies in `.NAME.work` beside the set,
with a journal of the chunks that are done, until the set is written. Leaves out which steps are chosen (`steps`) and
how a set lies on disk (`store`).
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO

import orjson

from srl_swe import __version__
from srl_swe.errors import DataError
from srl_swe.files import repair_last_line, sole_writer
from srl_swe.trajectories.formats import DropCounter, Duplicates, Reading, check_understood, read_chunk
from srl_swe.trajectories.inputs import Chunk, InputFile, list_files, read_chunks
from srl_swe.trajectories.steps import StepFilter, compile_trajectory, count_malformed
from srl_swe.trajectories.store import IndexEntry, encode_record

logger = logging.getLogger(__name__)

_RECORDS, _JOURNAL, _PLAN = "records.jsonl", "journal.jsonl", "plan.json"
_CHUNKS_AHEAD = 2
"""Chunks that wait for each worker, so that none idles; more would only take memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Rows that come from elsewhere than a file, for example from a hub."""

    name: str
    chunks: Callable[[int], Iterator[Chunk]]
    """Gets the index of this input; yields its rows, in the same order each time."""


@dataclass(kw_only=True)
class Compiled:
    """What was compiled so far; it grows chunk by chunk."""

    records: Path
    """One line a trajectory, as `store.write_records` takes it."""
    index: list[IndexEntry] = field(default_factory=list)
    drops: DropCounter = field(default_factory=DropCounter)
    trajectories: Counter[str] = field(default_factory=Counter)
    """Kept, by source."""
    examples: Counter[str] = field(default_factory=Counter)
    """Step examples, by source."""
    num_chunks: int = 0
    num_understood: Counter[int] = field(default_factory=Counter)
    """Rows in a format that is understood, by input."""
    position_bytes: int = 0
    """How much of the input files was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """What a worker made of one row: the reading without its text, and the record that it became."""

    reading: Reading
    record: bytes
    """Empty = filtered out or unusable."""
    num_targets: int


@contextmanager
def compile_files(
    inputs: Sequence[Path | Tables],
    work: Path,
    *,
    step_filter: StepFilter,
    num_workers: int = 1,
    on_progress: Callable[[Compiled], None] = lambda compiled: None,
) -> Iterator[Compiled]:
    """Compile all trajectories of the inputs, and hand out where the records lie until the block ends.

    Args:
        inputs: Files, folders (recursively) and tables; all rules of `read_trajectories` hold.
        work: Folder for what is compiled so far, removed at the end of the block. After an interruption the same call
            goes on there; where inputs, filter or version changed, it begins anew.
        step_filter: Which trajectories and steps are used.
        num_workers: Processes that parse and compile; 1 = this one.
        on_progress: Called after each chunk.

    Raises:
        DataError: an input is missing, broken or not understood; or a worker died.
        ConfigError: another process compiles in the same folder.
    """
    files = list_files([path for path in inputs if isinstance(path, Path)])
    plan = _plan(inputs, files, step_filter)
    with sole_writer(work):
        compiled, duplicates = _resume(work, plan)
        chunks = islice(_chunks(inputs, files), compiled.num_chunks, None)
        with (
            compiled.records.open("ab") as records,
            (work / _JOURNAL).open("ab") as journal,
            _mapped(chunks, step_filter, num_workers) as results,
        ):
            for position_bytes, rows in results:
                try:
                    _take(compiled, duplicates, rows, records, journal)
                except OSError as error:
                    raise DataError(
                        f"{work}: cannot be written: {error}; free some space, then run it again"
                    ) from error
                compiled.position_bytes = position_bytes
                on_progress(compiled)
        check_understood([path if isinstance(path, Path) else path.name for path in inputs], compiled.num_understood)
        try:
            yield compiled
        except DataError:
            shutil.rmtree(work, ignore_errors=True)
            raise
    shutil.rmtree(work, ignore_errors=True)


def compile_chunk(chunk: Chunk, step_filter: StepFilter) -> list[_Row]:
    """Parse and compile the rows of a chunk."""
    rows = []
    for reading in read_chunk(chunk):
        record, num_targets = b"", 0
        if reading.trajectory is not None:
            compiled = compile_trajectory(
                reading.trajectory,
                step_filter,
                reading.drops,
                num_malformed=count_malformed(reading.drops),
                where=reading.where,
            )
            if compiled is not None:
                record, num_targets = encode_record(compiled), len(compiled.targets)
            # The steps need not travel between processes twice.
            reading = replace(reading, trajectory=replace(reading.trajectory, steps=(), problem_statement="", patch=""))
        rows.append(_Row(reading=reading, record=record, num_targets=num_targets))
    return rows


def _chunks(inputs: Sequence[Path | Tables], files: Sequence[InputFile]) -> Iterator[Chunk]:
    """Yield the chunks of all inputs in their order, positions counted over all files."""
    tables = (chunk for index, item in enumerate(inputs) if isinstance(item, Tables) for chunk in item.chunks(index))
    paths = [index for index, item in enumerate(inputs) if isinstance(item, Path)]
    before = 0
    for file in files:
        size = file.path.stat().st_size
        file = replace(file, input_index=paths[file.input_index])
        for chunk in read_chunks(file):
            yield replace(chunk, position_bytes=before + chunk.position_bytes)
        before += size
    yield from tables


def _take(
    compiled: Compiled, duplicates: Duplicates, rows: Sequence[_Row], records: IO[bytes], journal: IO[bytes]
) -> None:
    """Add a chunk's rows: records first, then the journal's line that makes them count."""
    drops = DropCounter()
    entry: list[tuple[str, str, str, str, int]] = []
    understood: Counter[int] = Counter()
    for row in rows:
        reading = row.reading
        understood[reading.input_index] += reading.is_understood
        trajectory_id = duplicates.admit(reading, drops)
        if reading.trajectory is None or trajectory_id is None:
            continue
        record = row.record
        if record and trajectory_id != reading.trajectory.trajectory_id:
            record = orjson.dumps(orjson.loads(record) | {"trajectory_id": trajectory_id}) + b"\n"
        records.write(record)
        entry.append(
            (
                reading.content.hex(),
                trajectory_id,
                reading.trajectory.instance_id,
                reading.trajectory.source,
                row.num_targets if record else -1,
            )
        )
    _add(compiled, entry, drops, understood)
    records.flush()
    line = {"end": records.tell(), "rows": entry, "drops": drops.as_json(), "understood": list(understood.items())}
    journal.write(orjson.dumps(line) + b"\n")
    journal.flush()


def _add(
    compiled: Compiled,
    entry: Sequence[tuple[str, str, str, str, int]],
    drops: DropCounter,
    understood: Mapping[int, int],
) -> None:
    for _, _, instance_id, source, num_targets in entry:
        if num_targets >= 0:
            compiled.index.append(IndexEntry(instance_id=instance_id, num_targets=num_targets))
            compiled.trajectories[source] += 1
            compiled.examples[source] += num_targets
    compiled.drops.merge(drops)
    compiled.num_understood.update(understood)
    compiled.num_chunks += 1


def _plan(inputs: Sequence[Path | Tables], files: Sequence[InputFile], step_filter: StepFilter) -> str:
    """Return a fingerprint of all that decides what is compiled."""
    listed = [(str(file.path), file.is_named, (stat := file.path.stat()).st_size, stat.st_mtime_ns) for file in files]
    names = [str(item) if isinstance(item, Path) else item.name for item in inputs]
    options = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in _options(step_filter)}
    return hashlib.sha256(json.dumps([__version__, names, listed, options]).encode()).hexdigest()


def _options(step_filter: StepFilter) -> Iterator[tuple[str, object]]:
    return ((name, getattr(step_filter, name)) for name in StepFilter.__dataclass_fields__)


def _resume(work: Path, plan: str) -> tuple[Compiled, Duplicates]:
    """Return what an interrupted compilation with the same plan has done, or nothing."""
    compiled, duplicates = Compiled(records=work / _RECORDS), Duplicates()
    journal, records, plan_file = work / _JOURNAL, work / _RECORDS, work / _PLAN
    if not plan_file.is_file() or plan_file.read_text() != plan:
        for path in (journal, records):
            path.unlink(missing_ok=True)
        plan_file.write_text(plan)
        return compiled, duplicates
    end = 0
    if journal.is_file():
        repair_last_line(journal)
        with journal.open("rb") as lines:
            for line in lines:
                done = orjson.loads(line)
                end = done["end"]
                for content, trajectory_id, *_ in done["rows"]:
                    duplicates.remember(bytes.fromhex(content), trajectory_id)
                _add(compiled, done["rows"], DropCounter.from_json(done["drops"]), Counter(dict(done["understood"])))
    if end:
        if not records.is_file() or records.stat().st_size < end:
            raise DataError(f"{work}: its records are shorter than its journal says; delete the folder")
        os.truncate(records, end)
        logger.info("going on after %d trajectories that were compiled before", len(compiled.index))
    else:
        records.unlink(missing_ok=True)
    return compiled, duplicates


@contextmanager
def _mapped(
    chunks: Iterable[Chunk], step_filter: StepFilter, num_workers: int
) -> Iterator[Iterator[tuple[int, list[_Row]]]]:
    """Give (position, rows) of the chunks in their order, compiled here or by workers."""
    if num_workers == 1:
        yield ((chunk.position_bytes, compile_chunk(chunk, step_filter)) for chunk in chunks)
        return
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_become_worker)
    try:
        yield _in_order(pool, chunks, step_filter, num_workers * _CHUNKS_AHEAD)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, chunks: Iterable[Chunk], step_filter: StepFilter, num_ahead: int
) -> Iterator[tuple[int, list[_Row]]]:
    waiting: deque[tuple[int, Future[list[_Row]]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk.position_bytes, pool.submit(compile_chunk, chunk, step_filter)))
            if len(waiting) > num_ahead:
                position_bytes, future = waiting.popleft()
                yield position_bytes, future.result()
        for position_bytes, future in waiting:
            yield position_bytes, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died, most likely for want of memory; what is compiled so far is kept: run the same "
            "command again, with --workers 1 if it happens again"
        ) from error


def _become_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
