"""A model that answers chat messages, whatever is behind it: what is asked of it and what it gives.

Leaves out the two that there are: `endpoint` (over HTTP) and `batching` (a sampler of this process).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from srl_swe.evaluation.spending import EpisodeBudget
from srl_swe.types import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatAnswer:
    """One answer of a model."""

    text: str
    cut_off: bool
    """Whether it ended at the token limit."""


class ChatModel(Protocol):
    """Answers chat messages. Safe for threads."""

    def complete(self, messages: Sequence[Message], *, seed: int, budget: EpisodeBudget) -> ChatAnswer:
        """Return the answer; what it used is charged to the budget.

        Raises:
            EpisodeOverError: the prompt does not fit into the context, or the budget does not allow the call.
            SpendingLimitError: the whole evaluation's money does not allow the call.
            EndpointError, EndpointRefusedError, SamplerError: the model could not be asked.
        """
