"""The prompts of the single-shot settings and how the answers to them are read: nothing else knows their form.

The prompts of the multi-turn environment are in `srl_swe.prompts`; how edits are read and applied is in `edits`.
"""

import re
from collections.abc import Mapping, Sequence

from srl_swe.errors import MalformedCompletionError
from srl_swe.evaluation.edits import after_thought
from srl_swe.prompts import ISSUE_TEMPLATE
from srl_swe.types import Message

EDIT_PROMPT = """\
You fix an issue in a software repository by editing the files shown. Answer in exactly this form:
<think>
what you know, what is wrong and how you change it
</think>
### path/of/the/file.py
<<<<<<< SEARCH
lines exactly as they stand in the file, indentation included
=======
the lines to put in their place
>>>>>>> REPLACE
Give as many such edits as are needed, each with its path; of every edit show only the lines needed to find its place. \
A new file has an empty SEARCH part."""

LOCALISE_PROMPT = """\
You find the files of a software repository that must be changed to fix an issue. Answer in exactly this form:
<think>
what you know, and where the fault may be
</think>
```
path/of/the/most/likely/file.py
path/of/the/next.py
```
At most {num_files} files, the most likely one first, each by its path in the list shown."""

_FENCE = re.compile(r"```[^\n]*\n(.*?)\n?```", re.DOTALL)


def edit_messages(problem_statement: str, texts: Mapping[str, str]) -> list[Message]:
    """Ask for edits of these files, shown whole."""
    files = "\n\n".join(f"<file path={path!r}>\n{text.rstrip()}\n</file>" for path, text in texts.items())
    return [
        {"role": "system", "content": EDIT_PROMPT},
        {"role": "user", "content": f"{_issue(problem_statement)}\n\n{files}"},
    ]


def localise_messages(problem_statement: str, paths: Sequence[str], *, num_files: int) -> list[Message]:
    """Ask which of these files are to be changed."""
    return [
        {"role": "system", "content": LOCALISE_PROMPT.format(num_files=num_files)},
        {"role": "user", "content": f"{_issue(problem_statement)}\n\n<files>\n{chr(10).join(paths)}\n</files>"},
    ]


def parse_localisation(text: str, paths: Sequence[str], *, num_files: int) -> tuple[str, ...]:
    """Return the files that an answer names, those only that there are, at most `num_files`.

    Raises:
        MalformedCompletionError: it has no block, or names no file that there is.
    """
    match = _FENCE.search(after_thought(text))
    if match is None:
        raise MalformedCompletionError("The answer holds no ``` block with paths.")
    named = [line.strip().strip("`'\"*- ") for line in match[1].splitlines()]
    known = set(paths)
    found = tuple(dict.fromkeys(path for path in named if path in known))[:num_files]
    if not found:
        raise MalformedCompletionError("The answer names no file of the repository.")
    return found


def _issue(problem_statement: str) -> str:
    return ISSUE_TEMPLATE.replace("{{task}}", problem_statement.strip())
