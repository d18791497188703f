"""`srl-swe data`: trajectories to step examples, and all that is done with a compiled set."""

from collections.abc import Sequence

from srl_swe.cli.subcommands import Subcommands

_SUBCOMMANDS = Subcommands(
    prog="srl-swe data",
    package=__name__,
    commands={
        "compile": ("compile", "CompileConfig", "compile_set"),
        "replay": ("replay", "ReplayCommandConfig", "replay"),
        "profile": ("profile", "ProfileConfig", "profile"),
        "export": ("export", "ExportConfig", "export"),
        "show": ("show", "ShowConfig", "show"),
        "report": ("report", "ReportConfig", "report"),
    },
)


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command."""
    return _SUBCOMMANDS.run(arguments)
