"""The entry point: picks the sub-command, imports only that one, and turns our errors into one clear line.

Exit codes: 0 done, 1 an error of the project (message on stderr), 2 wrong usage, 130 interrupted.
"""

import importlib
import logging
import signal
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from srl_swe.errors import SrlSweError

COMMANDS = {
    "data": "compile expert trajectories to step examples; show, report, replay, profile, export them",
    "plan": "memory, time and disk of a training run before it starts; options that fit",
    "train": "train a model: SFT and SRL on step examples, RLVR on instances, curricula of them",
    "compare": "train by several methods on the same steps and budget, and compare what came of it",
    "eval": "act on instances and grade patches: the resolve rate",
    "images": "what the images of a task set take on disk; pull, check and remove them",
    "reward": "explain the similarity of two actions",
    "demo": "the whole loop on data that the project makes itself",
    "doctor": "check what this machine has, and say what to do about the rest",
    "gc": "remove containers, snapshots and images that nobody will use any more",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _print_help()
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        from srl_swe import __version__

        print(f"srl-swe {__version__}")
        sys.exit(0)
    name = words[0]
    errors = Console(stderr=True)
    if name not in COMMANDS:
        errors.print(f"[red]srl-swe: there is no command {name!r}[/red]; known are: {', '.join(COMMANDS)}")
        sys.exit(2)
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=errors, show_path=False)]
    )
    for noisy in ("httpx", "urllib3", "docker"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A polite end (kill, a cluster's time limit) cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(importlib.import_module(f"srl_swe.cli.{name}").run(words[1:]))
    except SrlSweError as error:
        errors.print(f"srl-swe {name}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print(f"srl-swe {name}: interrupted; the same command goes on where it stopped", style="yellow")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output is gone, as in `srl-swe data show … | head`
        sys.stderr.close()
        sys.exit(1)


def _print_help() -> None:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, line in COMMANDS.items():
        table.add_row(f"[bold]{name}[/bold]", line)
    console = Console()
    console.print("[bold]srl-swe[/bold] COMMAND [OPTIONS]    supervised reinforcement learning for SWE agents\n")
    console.print(table)
    console.print("\nsrl-swe COMMAND --help explains a command; srl-swe --version prints the version.")


if __name__ == "__main__":
    main()
