"""What one iteration has to compute: tokens as rows and as trees, targets, keys that they attend to.

Numbers of real prompts go in; measuring them is the caller's. Rollouts are taken to be as long as the expert's
completions and to part at their first token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 256
"""Queries of one attention block, as `srl_swe.training.prefix_tree` has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSizes:
    """What decides the memory and time of one pack."""

    tree_tokens: int
    targets: int
    mask_entries: int
    """Pairs of a query and a key over all attention blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One iteration's batch."""

    num_steps: int
    """Step examples of the set that can be trained on."""
    num_dropped: int
    """Step examples with too long a prompt (or no thought, for SFT), as far as was measured."""
    num_prompts: int
    rollouts_per_prompt: int
    prompt_tokens: int
    """Of all prompts, each counted once."""
    longest_prompt_tokens: int
    completion_tokens: int
    """Of all rollouts."""
    row_tokens: int
    """Every rollout with its whole prompt."""
    tree_tokens: int
    """Shared prefixes counted once."""
    attended_tokens: float
    """Keys that a token of a tree sees on average."""
    how: str
    """How lengths were counted, to be shown."""

    @property
    def iterations_per_epoch(self) -> int:
        """Return how many iterations pass over the step examples once."""
        return max(-(-self.num_steps // self.num_prompts), 1)

    @property
    def mean_prompt_tokens(self) -> float:
        """Return the mean length of a prompt."""
        return self.prompt_tokens / self.num_prompts

    @property
    def mean_completion_tokens(self) -> float:
        """Return the mean length of a completion."""
        return self.completion_tokens / (self.num_prompts * self.rollouts_per_prompt)

    @property
    def keys_per_query(self) -> float:
        """Return the keys that a query's block is given: what it sees, and the rest of its own block's."""
        return self.attended_tokens + BLOCK_TOKENS

    def pack_sizes(self, tokens_per_pack: int) -> PackSizes:
        """Return a pack as large as the limit and the batch allow, of the batch's mean composition."""
        tokens = min(tokens_per_pack, self.tree_tokens)
        return PackSizes(
            tree_tokens=tokens,
            targets=max(round(tokens * self.completion_tokens / self.tree_tokens), 1),
            mask_entries=round(tokens * min(self.keys_per_query, tokens)),
        )


def make_workload(
    *,
    prompt_sizes: Sequence[int],
    trunk_tokens: int,
    completion_sizes: Sequence[int],
    rollouts_per_prompt: int,
    num_steps: int,
    num_dropped: int,
    how: str,
) -> Workload:
    """Return the workload of a batch with these prompts and completions, one size of each for every prompt.

    `trunk_tokens` is the size of the tree of the prompts alone.

    Example: two prompts of 10 tokens that share 5, completions of 2 and 4, two rollouts: 2 * 20 + 2 * 6 = 52 row
    tokens, 15 + 12 = 27 tree tokens.

    Raises:
        ValueError: there is no prompt, or there are not as many completions.
    """
    if not prompt_sizes or len(prompt_sizes) != len(completion_sizes):
        raise ValueError(f"{len(prompt_sizes)} prompts and {len(completion_sizes)} completions make no batch")
    prompts, completions = sum(prompt_sizes), rollouts_per_prompt * sum(completion_sizes)
    tree = trunk_tokens + completions
    # A prompt's own tokens see half of it on average; a completion's see all of it and half of the completion.
    trunk_pairs = sum(size * size / 2 for size in prompt_sizes) * trunk_tokens / max(prompts, 1)
    branch_pairs = sum(
        rollouts_per_prompt * completion * (prompt + completion / 2)
        for prompt, completion in zip(prompt_sizes, completion_sizes, strict=True)
    )
    return Workload(
        num_steps=num_steps,
        num_dropped=num_dropped,
        num_prompts=len(prompt_sizes),
        rollouts_per_prompt=rollouts_per_prompt,
        prompt_tokens=prompts,
        longest_prompt_tokens=max(prompt_sizes),
        completion_tokens=completions,
        row_tokens=rollouts_per_prompt * prompts + completions,
        tree_tokens=tree,
        attended_tokens=(trunk_pairs + branch_pairs) / tree,
        how=how,
    )
