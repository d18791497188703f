"""`srl-swe data`: trajectories to step examples, and all that is done with a compiled set."""

import importlib
from collections.abc import Callable, Sequence

import tyro

_COMMANDS = {
    "compile": ("compile", "CompileConfig", "compile_set"),
    "replay": ("replay", "ReplayCommandConfig", "replay"),
    "profile": ("profile", "ProfileConfig", "profile"),
    "export": ("export", "ExportConfig", "export"),
    "show": ("show", "ShowConfig", "show"),
    "report": ("report", "ReportConfig", "report"),
}
"""Sub-command -> its module here, its options, and what runs it: only the one that is asked for is loaded."""


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command."""
    if arguments and arguments[0] in _COMMANDS:
        config_type, runner = _load(arguments[0])
        config: object = tyro.cli(config_type, prog=f"srl-swe data {arguments[0]}", args=list(arguments[1:]))
        return runner(config)
    tyro.extras.subcommand_cli_from_dict(
        {name: _load(name)[0] for name in _COMMANDS}, prog="srl-swe data", args=list(arguments)
    )
    return 2


def _load(name: str) -> tuple[type, Callable[[object], int]]:
    module_name, config_name, runner_name = _COMMANDS[name]
    module = importlib.import_module(f"{__name__}.{module_name}")
    return getattr(module, config_name), getattr(module, runner_name)
