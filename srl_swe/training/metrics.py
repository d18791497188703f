"""What a run reports while it goes: metrics.jsonl, trackers, progress bars, one line per iteration."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srl_swe.errors import CheckpointError, DataError
from srl_swe.training.checkpoint import write_record

METRICS_FILE = "metrics.jsonl"

LINE_METRICS = (
    ("loss", "train/loss"),
    ("reward", "reward/mean"),
    ("format", "reward/format_rate"),
    ("kept", "groups/kept"),
    ("flat", "groups/flat"),
    ("malformed", "groups/all_malformed"),
    ("resolved", "episodes/resolve_rate"),
    ("invalid", "episodes/invalid"),
    ("steps", "episodes/steps_mean"),
    ("truncated", "episodes/truncated_share"),
    ("val reward", "validation/reward"),
    ("val resolved", "validation/resolve_rate"),
    ("val invalid", "validation/invalid"),
    ("val similarity", "validation/similarity"),
    ("val format", "validation/format_rate"),
    ("copy-last", "validation/copy_last_similarity"),
)
"""What the line of an iteration shows, where it was measured."""


class MetricsLog:
    """metrics.jsonl: one flat dict per iteration; iteration 0 is the validation before training."""

    def __init__(self, path: Path, *, last_iteration: int) -> None:
        """Open the file and drop what lies beyond the checkpoint that the run goes on from."""
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if self._iteration(line) <= last_iteration]
        write_record(path, "".join(f"{line}\n" for line in kept))

    def append(self, metrics: Mapping[str, float]) -> None:
        """Write one line."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(metrics)) + "\n")
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be written: {error}") from error

    def _iteration(self, line: str) -> float:
        try:
            return float(json.loads(line)["iteration"])
        except ValueError:
            # A line cut off by a kill is necessarily the last one, beyond any checkpoint.
            return float("inf")
        except (KeyError, TypeError) as error:
            raise DataError(f"{self._path} holds a line that is no metrics: {line[:80]!r}") from error


class RunDisplay:
    """Progress of the run and of the stage it is in, with the time each stage took."""

    def __init__(self, *, console: Console | None = None) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        # A day's speed estimate: an iteration may take many minutes.
        self._progress = Progress(*columns, console=console, speed_estimate_period=86_400)
        self._run = self._progress.add_task("training", total=None, visible=False)
        self._stage = self._progress.add_task("", total=None, visible=False)
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> "RunDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, done: int, total: int) -> None:
        """Show the run's own bar."""
        self._progress.reset(self._run, total=total, completed=done, visible=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        """Show a stage and add its seconds to `time/NAME_s` of the iteration."""
        self._progress.reset(self._stage, total=total, description=f"  {name}", visible=True)
        start = time.monotonic()
        try:
            yield
        finally:
            key = f"time/{name}_s"
            self._seconds[key] = self._seconds.get(key, 0.0) + time.monotonic() - start
            self._progress.update(self._stage, visible=False)

    def expect(self, count: int) -> None:
        """Restart the stage's bar with so many items."""
        self._progress.reset(self._stage, total=count)

    def step(self) -> None:
        """Advance the stage by one item."""
        self._progress.advance(self._stage)

    def take_times(self) -> dict[str, float]:
        """Return the seconds per stage since the last call."""
        taken, self._seconds = self._seconds, {}
        return taken

    def finish_iteration(self, iteration: int, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Advance the run and print the iteration's line; done and total in iterations, or in trained tokens."""
        self._progress.update(self._run, completed=done)
        shown = [f"{name} {metrics[key]:.4g}" for name, key in LINE_METRICS if key in metrics]
        seconds = sum(value for key, value in metrics.items() if key.startswith("time/"))
        where = f"{iteration}/{total}" if done == iteration else f"{iteration}, {done} of {total} trained tokens"
        self.note(f"iteration {where}: {', '.join(shown)} ({seconds:.1f} s)")

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


def tracker_config(options: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    """Return options in the types that every tracker accepts."""
    return {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in options.items()}
