"""`srl-swe eval`: measure the resolve rate; as first word also what is done with finished evaluations."""

import importlib
from collections.abc import Callable, Sequence

import tyro

_COMMANDS = {
    "report": ("report", "ReportConfig", "report"),
    "compare": ("compare", "CompareConfig", "compare_folders"),
    "render": ("render", "RenderConfig", "render"),
    "submit-kit": ("submit_kit", "SubmitKitConfig", "submit_kit"),
}
"""First word -> its module here, its options, and what runs it: only the one that is asked for is loaded."""


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command, or an evaluation where none is named."""
    if arguments and arguments[0] in _COMMANDS:
        config_type, runner = _load(arguments[0])
        config: object = tyro.cli(config_type, prog=f"srl-swe eval {arguments[0]}", args=list(arguments[1:]))
        return runner(config)
    from srl_swe.cli.eval.evaluate import run as run_evaluation

    return run_evaluation(arguments)


def _load(name: str) -> tuple[type, Callable[[object], int]]:
    module_name, config_name, runner_name = _COMMANDS[name]
    module = importlib.import_module(f"{__name__}.{module_name}")
    return getattr(module, config_name), getattr(module, runner_name)
