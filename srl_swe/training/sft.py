"""SFT's batches: the next prompts of the data order with the expert's completion behind each."""

from collections.abc import Sequence

from srl_swe.training.batches import Batch, target_ids
from srl_swe.training.config import TrainConfig
from srl_swe.training.data_order import draw_indices
from srl_swe.training.domain import Domain
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.types import StepExample


def collect_targets(
    examples: Sequence[StepExample], *, drawn: int, policy: Policy, domain: Domain, config: TrainConfig
) -> Batch:
    """Return the next batch; the last one of an epoch is shorter, so that no example comes twice in an epoch."""
    count = min(config.recipe.prompts_per_iteration, len(examples) - drawn % len(examples))
    chosen = [examples[i] for i in draw_indices(len(examples), drawn=drawn, count=count, seed=config.seed)]
    rows = tuple(
        Row(
            prompt_ids=tuple(policy.encode_prompt(domain.render(example))),
            completion_ids=tuple(target_ids(example, policy, domain)),
        )
        for example in chosen
    )
    metrics = {"batch/prompts": len(rows), "batch/completion_tokens": sum(len(row.completion_ids) for row in rows)}
    return Batch(
        rows=rows,
        advantages=None,
        rows_per_group=1,
        drawn=count,
        metrics=metrics,
        example_ids=tuple(example.example_id for example in chosen),
    )
