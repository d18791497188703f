"""The only place that knows how a context is shown to a model and how its answer is read.

One renderer and one parser serve SFT, SRL, acting and evaluation. Tokens and chat templates are left
to the policy; rewards to `srl_swe.rewards`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from srl_swe.errors import ConfigError, MalformedCompletionError
from srl_swe.types import Completion, HistoryPair, Message

SYSTEM_PROMPT = """\
You fix an issue in a software repository with shell commands, one at a time. Answer in exactly this form:
<think>
what you know, what you do next and why
</think>
```bash
one command
```
Commands run with bash in the work tree. Extra commands: `edit view PATH [START END]`, `edit create PATH`, \
`edit replace PATH`, `edit lines PATH START END`, `edit insert PATH LINE`, `edit undo PATH` (text comes from a \
here-document; replace takes the old lines, a line =======, the new lines). When the issue is fixed, the \
command is `submit`."""

ISSUE_TEMPLATE = "<issue>\n{{task}}\n</issue>"
"""How a prompt begins after the system prompt; the place of the problem statement in mini-swe-agent's words."""

NO_COMMAND = "(no command: the answer was malformed)"
"""Stands for the action of a malformed answer in the history that later prompts show."""

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_FENCE = re.compile(r"(`{3,})bash[ \t]*\r?\n(.*?)\r?\n\1[ \t]*(?=\r?\n|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLimits:
    """How much of a context a prompt shows."""

    history: int | None = 2
    """Number of last (action, observation) pairs shown; None = all (the paper shows 2)."""
    max_observation_chars: int = 4000
    """Longer observations lose their middle, each by itself."""

    def __post_init__(self) -> None:
        if self.history is not None and self.history < 0:
            raise ConfigError(f"history must be at least 0 or None (= all), not {self.history}")
        if self.max_observation_chars < 100:
            raise ConfigError(f"max_observation_chars must be at least 100, not {self.max_observation_chars}")


def cut_middle(text: str, max_chars: int, *, omitted: int = 0) -> str:
    """Keep the first and the last half of `max_chars` characters; `omitted` were left out of `text` before.

    >>> cut_middle("abcdefghij", 4)
    'ab\\n[… 6 characters left out …]\\nij'
    """
    if len(text) <= max_chars:
        return text
    tail = max_chars // 2
    num_omitted = len(text) - max_chars + omitted
    return f"{text[: max_chars - tail]}\n[… {num_omitted} characters left out …]\n{text[len(text) - tail :]}"


def render(
    problem_statement: str,
    history: Sequence[HistoryPair],
    limits: PromptLimits = PromptLimits(),
) -> list[Message]:
    """Render a context as chat messages.

    The pairs stand in one user message, in order, so that with full history the prompt of a step
    extends the prompt of the step before it.
    """
    shown = history if limits.history is None else history[len(history) - min(limits.history, len(history)) :]
    parts = [ISSUE_TEMPLATE.replace("{{task}}", problem_statement.strip())]
    if len(shown) < len(history):
        parts.append(f"[{len(history) - len(shown)} earlier commands not shown]")
    for pair in shown:
        observation = cut_middle(pair.observation.strip("\n"), limits.max_observation_chars)
        parts.append(f"<command>\n{pair.action}\n</command>\n<output>\n{observation}\n</output>")
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "\n\n".join(parts)}]


def parse(text: str) -> Completion:
    """Take a completion apart into thought and action.

    Raises:
        MalformedCompletionError: the text is not one non-empty think block followed by one fenced
            bash block; the message says what was found.
    """
    stripped = text.strip()
    think = _THINK.match(stripped)
    if think is None:
        found = "it is never closed by </think>" if stripped.startswith("<think>") else "the answer does not start so"
        raise MalformedCompletionError(f"Expected a <think>…</think> block first, but {found}.")
    thought = think.group(1).strip()
    if not thought:
        raise MalformedCompletionError("The <think> block is empty: say what you know and what you do next.")
    rest = stripped[think.end() :].strip()
    fence = _FENCE.match(rest)
    if fence is None:
        raise MalformedCompletionError("Expected one ```bash block with the command right after </think>.")
    if rest[fence.end() :].strip():
        raise MalformedCompletionError("Nothing may follow the ```bash block: give exactly one command.")
    action = fence.group(2).strip()
    if not action:
        raise MalformedCompletionError("The ```bash block is empty: give one command.")
    return Completion(thought=thought, action=action)


def answer_malformed(reason: str, *, cut_off: bool) -> HistoryPair:
    """Return what later prompts show of an answer that `parse` refused, for this reason or at the token limit."""
    cut = " It was cut off at its token limit." if cut_off else ""
    return HistoryPair(action=NO_COMMAND, observation=f"Your answer was malformed: {reason}{cut}")


def write(thought: str, action: str) -> str:
    """Write the completion that `parse` takes apart into the same thought and action.

    Raises:
        MalformedCompletionError: no completion says this (an empty thought or action, or a thought
            that contains the closing tag).
    """
    runs = [len(run) for run in re.findall(r"`{3,}", action)]
    fence = "`" * max([3, *(length + 1 for length in runs)])
    text = f"<think>\n{thought.strip()}\n</think>\n{fence}bash\n{action.strip()}\n{fence}"
    if parse(text) != Completion(thought=thought.strip(), action=action.strip()):
        raise MalformedCompletionError("The thought or the action contains the marks of the completion format.")
    return text
