"""What an agent reads after a command."""

import time

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


def test_escapes_of_terminals_are_left_out_by_option() -> None:
    output = "\x1b[1;31mred\x1b[0m \x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b(B \x1b[?25l\x1bcb\n"
    assert format_observation(CommandResult(output=output, exit_code=0, duration_s=0), 200, strip_escapes=True) == (
        "red alink b\n"
    )
    assert format_observation(CommandResult(output=output, exit_code=0, duration_s=0), 200) == output


def test_unfinished_escapes_take_no_time() -> None:
    output = "\x1b]" * 100_000
    started = time.monotonic()
    format_observation(CommandResult(output=output, exit_code=0, duration_s=0), 10**6, strip_escapes=True)
    assert time.monotonic() - started < 5


def test_the_end_by_a_limit_is_told() -> None:
    result = CommandResult(output="a\n", exit_code=137, duration_s=1, shell_replaced=True, ended_by="9 GB were written")
    assert format_observation(result, 100).splitlines()[1] == "[all processes were ended: 9 GB were written]"
