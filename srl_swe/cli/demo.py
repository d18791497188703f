"""`srl-swe demo`: the whole loop on data that the project makes itself."""

from collections.abc import Sequence

import tyro

from srl_swe.demo.loop import DemoConfig, run_demo


def run(arguments: Sequence[str]) -> None:
    """Run the command."""
    run_demo(tyro.cli(DemoConfig, prog="srl-swe demo", args=list(arguments)))
