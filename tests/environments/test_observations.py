"""What an agent reads after a command."""

import pytest

from srl_swe.environments.observations import format_observation
from srl_swe.types import CommandResult


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (CommandResult(output="ok\n", exit_code=0, duration_s=0.1), "ok\n"),
        (CommandResult(output="", exit_code=0, duration_s=0.1), ""),
        (CommandResult(output="no", exit_code=2, duration_s=0.1), "no\n[exit code 2]"),
        (CommandResult(output="", exit_code=1, duration_s=0.1), "[exit code 1]"),
        (
            CommandResult(output="a\n", exit_code=None, duration_s=91, timed_out=True, shell_replaced=True),
            "a\n[ended at the time limit of 90 s; its output up to then is above]\n"
            "[the shell ended; this is a fresh one in the same directory, without its variables]",
        ),
    ],
)
def test_last_line_says_what_went_wrong(result: CommandResult, expected: str) -> None:
    assert format_observation(result, 100, timeout_s=90.0) == expected


def test_cut_counts_what_was_left_out_before() -> None:
    result = CommandResult(output="0123456789", exit_code=0, duration_s=0.1, omitted_bytes=1000)
    assert format_observation(result, 4) == "01\n[… 1006 characters left out …]\n89"
