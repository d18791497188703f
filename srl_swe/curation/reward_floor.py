"""What an agent that learned nothing would score: the similarity of blind guesses to the expert's actions.

A reward that training reaches means something only above this floor.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from srl_swe.curation.action_kinds import ActionKind
from srl_swe.curation.survey import CommonAction, SampledStep
from srl_swe.rewards import similarity


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """Mean similarities of blind guesses on the steps of one kind; None = nothing could be guessed."""

    kind: ActionKind | None
    """None = all steps."""
    num_steps: int
    copy_last: float | None
    """Of the last action of the context, over the steps that have one."""
    common_of_kind: float | None
    """Of the most common action of the kind, as if the kind were known."""
    common: float | None
    """Of the most common action of all."""

    @property
    def best(self) -> float | None:
        """Return the floor: the best of the guesses."""
        return max(
            (value for value in (self.copy_last, self.common_of_kind, self.common) if value is not None), default=None
        )


def reward_floor(steps: Sequence[SampledStep], common: Mapping[ActionKind | None, CommonAction]) -> tuple[Floor, ...]:
    """Return the floor over all steps first, then by kind, the most frequent kind first."""
    scores = [(step.kind, _scores(step, common)) for step in steps]
    kinds = sorted({kind for kind, _ in scores}, key=lambda kind: (-sum(kind is other for other, _ in scores), kind))
    by_kind = [(kind, [each for other, each in scores if other is kind]) for kind in kinds]
    rows: list[tuple[ActionKind | None, list[_Scores]]] = [(None, [each for _, each in scores]), *by_kind]
    return tuple(
        Floor(
            kind=kind,
            num_steps=len(found),
            copy_last=_mean(each[0] for each in found),
            common_of_kind=_mean(each[1] for each in found),
            common=_mean(each[2] for each in found),
        )
        for kind, found in rows
    )


_Scores = tuple[float | None, float | None, float | None]


def _scores(step: SampledStep, common: Mapping[ActionKind | None, CommonAction]) -> _Scores:
    guesses = (step.previous_action, *(common[key].action if key in common else None for key in (step.kind, None)))
    last, of_kind, of_all = (None if guess is None else similarity(guess, step.action) for guess in guesses)
    return last, of_kind, of_all


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
