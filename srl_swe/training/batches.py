"""What one iteration trains on, whatever the method: rows, and advantages where there are any."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from srl_swe.errors import ConfigError, DataError
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Domain
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.training.refill import RefillState
from srl_swe.types import StepExample


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The rows of one iteration; empty when no group carried signal."""

    rows: tuple[Row, ...]
    advantages: tuple[float, ...] | None
    """One per row; None for SFT."""
    rows_per_group: int
    """Rows that must not be parted between updates."""
    drawn: int
    """Draws from the data order used up for it."""
    metrics: Mapping[str, float]
    example_ids: tuple[str, ...] = ()
    """One per row."""
    sampling_logprobs: tuple[tuple[float, ...], ...] | None = None
    """One per completion token of each row; None for SFT."""
    group_sizes: tuple[int, ...] | None = None
    """Rows of each group where groups differ in size; None = `rows_per_group` each."""
    weights: tuple[float, ...] | None = None
    """One per row: its share of the tokens of its episode, whose rows share one advantage. They add up to the number of
    episodes. None = every row stands for itself, with weight 1."""
    counted: tuple[bool, ...] | None = None
    """One per row: false where its tokens have no part in the loss. None = all have."""
    refill: RefillState | None = None
    """What the next iteration knows of this one's groups; None for SFT."""

    @property
    def trained_tokens(self) -> int:
        """Return how many completion tokens have a part in the loss."""
        counted = self.counted or (True,) * len(self.rows)
        return sum(len(row.completion_ids) for row, has_part in zip(self.rows, counted, strict=True) if has_part)

    def group_ends(self) -> list[int]:
        """Return for each group one past its last row."""
        sizes = self.group_sizes or (self.rows_per_group,) * (len(self.rows) // self.rows_per_group)
        return list(accumulate(sizes))


@dataclass(frozen=True, kw_only=True, slots=True)
class UsableExamples:
    """The step examples that fit, and what was dropped why."""

    examples: tuple[StepExample, ...]
    dropped: Mapping[str, int]


def select_usable(
    examples: Sequence[StepExample],
    *,
    policy: Policy,
    domain: Domain,
    config: TrainConfig,
    needs_target: bool,
    on_example: Callable[[], None],
) -> UsableExamples:
    """Drop and count step examples that are too long, or lack a thought where SFT needs one.

    Raises:
        ConfigError: a completion alone fills the model's context.
        DataError: nothing is left.
    """
    limit = longest_prompt(policy, config.max_prompt_tokens, config.max_completion_tokens)
    dropped = {"prompt_too_long": 0, "no_thought": 0, "completion_too_long": 0}
    usable = []
    for example in examples:
        on_example()
        if needs_target and not example.expert_thought.strip():
            dropped["no_thought"] += 1
        elif len(policy.encode_prompt(domain.render(example))) > limit:
            dropped["prompt_too_long"] += 1
        elif needs_target and len(target_ids(example, policy, domain)) > config.max_completion_tokens:
            dropped["completion_too_long"] += 1
        else:
            usable.append(example)
    if examples and not usable:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise DataError(
            f"none of {len(examples)} step examples is usable: {reasons} (prompts may have {limit} tokens, completions "
            f"{config.max_completion_tokens}). Raise the limits, shorten the history, or use a model with more context."
        )
    return UsableExamples(examples=tuple(usable), dropped=dropped)


def longest_prompt(policy: Policy, max_prompt_tokens: int, max_completion_tokens: int) -> int:
    """Return how many tokens a prompt may have so that the model's context holds it and a completion.

    Raises:
        ConfigError: a completion alone fills the context.
    """
    if max_completion_tokens >= policy.max_context:
        raise ConfigError(
            f"max_completion_tokens must be below the model's context of {policy.max_context} tokens, "
            f"found {max_completion_tokens}"
        )
    return min(max_prompt_tokens, policy.max_context - max_completion_tokens)


def target_ids(example: StepExample, policy: Policy, domain: Domain) -> list[int]:
    """Return the completion that SFT imitates, as tokens."""
    return policy.encode_completion(domain.write(example.expert_thought, example.expert_action))
