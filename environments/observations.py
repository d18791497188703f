"""The text that an agent reads after a command."""

from srl_swe.prompts import cut_middle
from srl_swe.types import CommandResult


def format_observation(result: CommandResult, max_chars: int, *, timeout_s: float | None = None) -> str:
    """Return a command's output, cut to `max_chars`, and a last line where it did not simply succeed.

    Of a long output head and tail stay, half and half; a line between them says how many characters were
    left out. `timeout_s` is the limit that a timed-out command had; None shows its duration instead.

    Example:
        >>> format_observation(CommandResult(output="no\\n", exit_code=1, duration_s=0.1), 100)
        'no\\n[exit code 1]'
    """
    output = cut_middle(result.output, max_chars, omitted=result.omitted_bytes)
    notes = []
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
