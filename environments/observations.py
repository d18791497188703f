"""The text that an agent reads after a command."""

import re

from srl_swe.prompts import cut_middle
from srl_swe.types import CommandResult

# CSI sequences, OSC strings, and the two-character escapes (ECMA-48, sections 5.3 to 5.6).
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


def format_observation(
    result: CommandResult, max_chars: int, *, timeout_s: float | None = None, strip_escapes: bool = False
) -> str:
    """Return a command's output, cut to `max_chars`, and a last line where it did not simply succeed.

    Of a long output head and tail stay, half and half; a line between them says how many characters were
    left out. `timeout_s` is the limit that a timed-out command had; None shows its duration instead. `strip_escapes`
    leaves out the control sequences of terminals, colours for example.

    Example:
        >>> format_observation(CommandResult(output="no\\n", exit_code=1, duration_s=0.1), 100)
        'no\\n[exit code 1]'
    """
    output = _ESCAPES.sub("", result.output) if strip_escapes else result.output
    output = cut_middle(output, max_chars, omitted=result.omitted_bytes)
    notes = [f"[all processes were ended: {result.ended_by}]"] if result.ended_by else []
    if result.timed_out:
        limit_s = result.duration_s if timeout_s is None else timeout_s
        notes.append(f"[ended at the time limit of {limit_s:.4g} s; its output up to then is above]")
    elif result.exit_code is None:
        notes.append("[exit code unknown]")
    elif result.exit_code != 0:
        notes.append(f"[exit code {result.exit_code}]")
    if result.shell_replaced:
        notes.append("[the shell ended; this is a fresh one in the same directory, without its variables]")
    if not notes:
        return output
    gap = "" if not output or output.endswith("\n") else "\n"
    return output + gap + "\n".join(notes)
