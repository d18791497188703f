"""`srl-swe images`: what the images of a task set take on disk; bringing, checking and removing them."""

import importlib
from collections.abc import Callable, Sequence

import tyro

_COMMANDS = {
    "plan": ("plan", "PlanConfig", "plan"),
    "pull": ("pull", "PullCommandConfig", "pull"),
    "verify": ("verify", "VerifyConfig", "verify"),
    "gc": ("gc", "GcConfig", "collect"),
}
"""Sub-command -> its module here, its options, and what runs it: only the one that is asked for is loaded."""


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command."""
    if arguments and arguments[0] in _COMMANDS:
        config_type, runner = _load(arguments[0])
        config: object = tyro.cli(config_type, prog=f"srl-swe images {arguments[0]}", args=list(arguments[1:]))
        return runner(config)
    tyro.extras.subcommand_cli_from_dict(
        {name: _load(name)[0] for name in _COMMANDS}, prog="srl-swe images", args=list(arguments)
    )
    return 2


def _load(name: str) -> tuple[type, Callable[[object], int]]:
    module_name, config_name, runner_name = _COMMANDS[name]
    module = importlib.import_module(f"{__name__}.{module_name}")
    return getattr(module, config_name), getattr(module, runner_name)
