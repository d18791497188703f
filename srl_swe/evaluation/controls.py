"""Predictions that need no model and whose outcome is known: gold, reversed gold, empty.

They show that a set of instances is graded soundly: gold must resolve all of it, the others nothing.
"""

import re
from collections.abc import Sequence

from srl_swe.errors import DataError
from srl_swe.evaluation.predictions import end_with_newline
from srl_swe.types import Instance, Prediction

_HUNK = re.compile(
    r"@@ -(?P<old>\d+(?:,(?P<num_old>\d+))?) \+(?P<new>\d+(?:,(?P<num_new>\d+))?) @@(?P<rest>.*)", re.DOTALL
)
_GIT = re.compile(r"diff --git (a/\S+) (b/\S+)(\s*)", re.DOTALL)
_INDEX = re.compile(r"index (\w+)\.\.(\w+)(.*)", re.DOTALL)
_OPPOSITES = (
    ("new file mode", "deleted file mode"),
    ("rename from", "rename to"),
    ("copy from", "copy to"),
    ("old mode", "new mode"),
)
_FLIP = {"-": "+", "+": "-"}


def gold_predictions(instances: Sequence[Instance]) -> tuple[Prediction, ...]:
    """Predict the gold patches: the control that must resolve everything."""
    return tuple(_made("gold", instance, instance.gold_patch) for instance in instances)


def reversed_predictions(instances: Sequence[Instance]) -> tuple[Prediction, ...]:
    """Predict the gold patches backwards: a control that must resolve nothing.

    Raises:
        DataError: a gold patch is binary.
    """
    return tuple(_made("gold-reversed", instance, _reversed_gold(instance)) for instance in instances)


def empty_predictions(instances: Sequence[Instance]) -> tuple[Prediction, ...]:
    """Predict nothing: a control that must resolve nothing."""
    return tuple(_made("empty", instance, "") for instance in instances)


def reverse_patch(patch: str) -> str:
    r"""Turn a unified text diff into the one that undoes it.

    >>> reverse_patch("--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-old\n+new\n+line\n")
    '--- b/x\n+++ a/x\n@@ -1,2 +1 @@\n+old\n-new\n-line\n'

    Raises:
        DataError: it holds a binary change.
    """
    result: list[str] = []
    num_old = num_new = 0
    # Only "\n" ends a line of a diff; form feeds and carriage returns are content.
    for line in re.findall(r"[^\n]*\n|[^\n]+", patch):
        if num_old > 0 or num_new > 0 or line.startswith("\\"):
            num_old -= line[0] in "- \n"
            num_new -= line[0] in "+ \n"
            result.append(_FLIP.get(line[0], line[0]) + line[1:])
        elif hunk := _HUNK.fullmatch(line):
            num_old, num_new = int(hunk["num_old"] or 1), int(hunk["num_new"] or 1)
            result.append(f"@@ -{hunk['new']} +{hunk['old']} @@{hunk['rest']}")
        elif line.startswith("+++ ") and result and result[-1].startswith("--- "):
            result[-1:] = ["--- " + line[4:], "+++ " + result[-1][4:]]
        else:
            result.append(_reversed_header(line))
    return "".join(result)


def _reversed_header(line: str) -> str:
    if line.startswith(("GIT binary patch", "Binary files ")):
        raise DataError("the patch changes a binary file, which cannot be reversed from its text")
    for word, opposite in _OPPOSITES:
        if line.startswith(word):
            return opposite + line[len(word) :]
        if line.startswith(opposite):
            return word + line[len(opposite) :]
    if git := _GIT.fullmatch(line):
        return f"diff --git a/{git[2][2:]} b/{git[1][2:]}{git[3]}"
    if index := _INDEX.fullmatch(line):
        return f"index {index[2]}..{index[1]}{index[3]}"
    return line


def _reversed_gold(instance: Instance) -> str:
    try:
        return reverse_patch(instance.gold_patch)
    except DataError as error:
        raise DataError(f"instance {instance.instance_id}: gold patch: {error}") from error


def _made(model: str, instance: Instance, patch: str) -> Prediction:
    return Prediction(instance_id=instance.instance_id, model_name_or_path=model, model_patch=end_with_newline(patch))
