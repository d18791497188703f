"""`srl-swe reward explain A B`: why two actions score what they score."""

from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.text import Text

from srl_swe.rewards import MatchingBlock, matching_blocks, similarity


def explain(student: tyro.conf.Positional[str], expert: tyro.conf.Positional[str], /) -> None:
    """Show the matching blocks of two actions in colour, and the similarity they add up to.

    Shared stretches are green; what only one of the two has is red.

    Args:
        student: the command the model proposed.
        expert: the command the expert took.
    """
    blocks = matching_blocks(student, expert)
    matched = sum(block.size for block in blocks)
    console = Console()
    console.print(_coloured("student  ", student, [(block.a, block.size) for block in blocks]))
    console.print(_coloured("expert   ", expert, [(block.b, block.size) for block in blocks]))
    total = len(student) + len(expert)
    console.print(f"similarity = 2 x {matched} / {total} = {similarity(student, expert):.4f}", highlight=False)
    console.print(_blocks_line(student, blocks), highlight=False, markup=False)


def run(arguments: Sequence[str]) -> None:
    """Run the sub-command."""
    tyro.extras.subcommand_cli_from_dict(
        {"explain": explain}, prog="srl-swe reward", args=list(arguments), config=(tyro.conf.PositionalRequiredArgs,)
    )


def _coloured(label: str, action: str, stretches: list[tuple[int, int]]) -> Text:
    text = Text(label, style="bold")
    position = 0
    for start, size in stretches:
        text.append(action[position:start], style="red")
        text.append(action[start : start + size], style="green")
        position = start + size
    text.append(action[position:], style="red")
    return text


def _blocks_line(student: str, blocks: tuple[MatchingBlock, ...]) -> str:
    shared = ", ".join(repr(student[block.a : block.a + block.size]) for block in blocks)
    return f"matching blocks: {shared or 'none'}"
