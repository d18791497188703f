"""Predictions that need no model and whose outcome is known: gold, reversed gold, empty.

They show that a set of instances is graded soundly: gold must resolve all of it, the others nothing.
"""

from collections.abc import Sequence

from srl_swe.environments.diffs import reverse_patch
from srl_swe.errors import DataError
from srl_swe.evaluation.predictions import end_with_newline
from srl_swe.types import Instance, Prediction


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


def _reversed_gold(instance: Instance) -> str:
    try:
        return reverse_patch(instance.gold_patch)
    except DataError as error:
        raise DataError(f"instance {instance.instance_id}: gold patch: {error}") from error


def _made(model: str, instance: Instance, patch: str) -> Prediction:
    return Prediction(instance_id=instance.instance_id, model_name_or_path=model, model_patch=end_with_newline(patch))
