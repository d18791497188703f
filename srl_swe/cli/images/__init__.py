"""`srl-swe images`: what the images of a task set take on disk; bringing, checking and removing them."""

from collections.abc import Sequence

from srl_swe.cli.subcommands import Subcommands

_SUBCOMMANDS = Subcommands(
    prog="srl-swe images",
    package=__name__,
    commands={
        "plan": ("plan", "PlanConfig", "plan"),
        "pull": ("pull", "PullCommandConfig", "pull"),
        "verify": ("verify", "VerifyConfig", "verify"),
        "gc": ("gc", "GcConfig", "collect"),
    },
)


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command."""
    return _SUBCOMMANDS.run(arguments)
