"""The stages of the demo on disk: what is complete is not done again, and how long each took.

What a stage does is decided by the caller; a stage that a kill interrupts goes on from its own files.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule

from srl_swe.errors import ConfigError, DataError
from srl_swe.files import write_atomically

if TYPE_CHECKING:
    from srl_swe.demo.loop import DemoConfig


class Stages:
    """The record of complete stages in one folder."""

    def __init__(self, folder: Path, console: Console) -> None:
        """Read the record that an earlier run left.

        Raises:
            DataError: the record is damaged.
        """
        self._path = folder / "stages.json"
        self._console = console
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.is_file() else "{}"
            self.seconds: dict[str, float] = {str(name): float(value) for name, value in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self._path}: expected seconds by stage, found {error}; delete {folder} to start over"
            ) from error

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Do the work of a stage unless it is complete; seconds of interrupted runs count too."""
        if name in self.seconds:
            self._console.print(f"{name}: done before, in {self.seconds[name]:.0f} s", highlight=False)
            return
        self._console.print(Rule(name, align="left"))
        unfinished = self._path.with_name(f"stage-{name.replace(' ', '-')}.seconds")
        earlier = _read_seconds(unfinished)
        started = time.monotonic()
        try:
            work()
        except BaseException:
            # After a kill this line never runs, and those seconds are lost to the account.
            write_atomically(unfinished, f"{earlier + time.monotonic() - started:.1f}\n")
            raise
        self.seconds[name] = round(earlier + time.monotonic() - started, 1)
        write_atomically(self._path, json.dumps(self.seconds, indent=1) + "\n")
        unfinished.unlink(missing_ok=True)


def _read_seconds(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


def claim_folder(folder: Path, config: "DemoConfig") -> None:
    """Write the configuration into a new folder, or check that an earlier run had the same.

    Raises:
        ConfigError: the folder holds a demo with other options, or something else.
    """
    options = {name: value for name, value in asdict(config).items() if name not in ("output", "max_parallel")}
    options = json.loads(json.dumps(options))
    path = folder / "config.json"
    if not path.is_file():
        others = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")] if folder.is_dir() else []
        if others:
            raise ConfigError(f"{folder} is not empty and holds no demo ({others[0]}…); choose another output folder")
        write_atomically(path, json.dumps(options, indent=1) + "\n")
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); choose another output folder") from error
    differing = sorted(name for name in options.keys() | earlier.keys() if options.get(name) != earlier.get(name))
    if differing:
        found = "; ".join(f"{name}: {earlier.get(name)!r} then, {options.get(name)!r} now" for name in differing)
        raise ConfigError(
            f"{folder} holds a demo with other options ({found}); give the same options to go on, or another output"
        )
