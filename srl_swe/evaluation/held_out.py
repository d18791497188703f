"""A model on held-out step examples: what each answer earned and cost, as a file.

Sampling and scoring are those of validation. What is made of several models' files is left to `methods`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srl_swe.errors import DataError
from srl_swe.files import write_atomically

if TYPE_CHECKING:
    from srl_swe.training.config import TrainConfig
    from srl_swe.training.domain import Domain
    from srl_swe.training.policy import Policy
    from srl_swe.types import StepExample


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutStep:
    """One answer to one held-out step example."""

    example_id: str
    reward: float
    """Similarity, or -1 where the answer does not keep the format."""
    similarity: float
    """0 where the answer does not keep the format."""
    well_formed: bool
    completion_tokens: int


def answer_held_out(
    examples: "Sequence[StepExample]",
    *,
    policy: "Policy",
    domain: "Domain",
    config: "TrainConfig",
    on_step: Callable[[], None],
) -> tuple[HeldOutStep, ...]:
    """Let a model answer once to each step example."""
    from srl_swe.training.transformers_sampler import TransformersSampler
    from srl_swe.training.validation import sample_held_out

    sampler = TransformersSampler(
        policy, cached_tokens=config.cached_tokens, concurrent_rollouts=config.concurrent_rollouts
    )
    rollouts = sample_held_out(
        examples, policy=policy, sampler=sampler, domain=domain, config=config, on_prompt_done=on_step
    )
    return tuple(
        HeldOutStep(
            example_id=example.example_id,
            reward=rollout.reward,
            similarity=rollout.reward_parts["similarity"],
            well_formed=bool(rollout.reward_parts["well_formed"]),
            completion_tokens=len(rollout.completion_ids),
        )
        for example, rollout in zip(examples, rollouts, strict=True)
    )


def write_answers(path: Path, steps: Sequence[HeldOutStep], about: Mapping[str, object]) -> None:
    """Write the file; `about` says of which model it is, as JSON values."""
    record = {"schema_version": 1, **about, "steps": [asdict(step) for step in steps]}
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def read_answers(path: Path) -> tuple[HeldOutStep, ...] | None:
    """Return what the file holds; None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return tuple(HeldOutStep(**step) for step in json.loads(path.read_text("utf-8"))["steps"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it, and the same command measures again") from error
