"""`srl-swe eval`: measure the resolve rate; as first word also what is done with finished evaluations."""

from collections.abc import Sequence

from srl_swe.cli.subcommands import Subcommands

_SUBCOMMANDS = Subcommands(
    prog="srl-swe eval",
    package=__name__,
    commands={
        "report": ("report", "ReportConfig", "report"),
        "compare": ("compare", "CompareConfig", "compare_folders"),
        "render": ("render", "RenderConfig", "render"),
        "submit-kit": ("submit_kit", "SubmitKitConfig", "submit_kit"),
    },
)


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command, or an evaluation where none is named."""
    if _SUBCOMMANDS.names(arguments):
        return _SUBCOMMANDS.run(arguments)
    from srl_swe.cli.eval.evaluate import run as run_evaluation

    return run_evaluation(arguments)
