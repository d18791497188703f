"""Step groups for SRL: sample, score, keep the groups that carry signal, replace the others.

Leaves out the sampling engine and the update.
"""

import logging
from collections.abc import Callable, Sequence

from srl_swe.errors import MalformedCompletionError
from srl_swe.rewards import MALFORMED_REWARD
from srl_swe.training.advantages import SignalCounts, group_advantages
from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.data_order import draw_indices
from srl_swe.training.domain import Domain
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.training.samplers import SampledCompletion, Sampler, mix_seed
from srl_swe.types import Group, Rollout, StepExample

logger = logging.getLogger(__name__)


def score_completion(text: str, example: StepExample, domain: Domain) -> tuple[float, dict[str, float]]:
    """Return the reward of a completion and its parts; similarity is 0 where the format is broken."""
    try:
        completion = domain.parse(text)
    except MalformedCompletionError:
        return MALFORMED_REWARD, {"similarity": 0.0, "well_formed": 0.0}
    similarity = domain.score(completion.action, example.expert_action)
    return similarity, {"similarity": similarity, "well_formed": 1.0}


def make_group(
    example: StepExample, prompt_ids: Sequence[int], completions: Sequence[SampledCompletion], domain: Domain
) -> Group:
    """Score the completions of one prompt."""
    rollouts = []
    for completion in completions:
        reward, parts = score_completion(completion.text, example, domain)
        rollouts.append(
            Rollout(
                prompt_ids=tuple(prompt_ids),
                completion_ids=completion.ids,
                sampling_logprobs=completion.logprobs,
                text=completion.text,
                reward=reward,
                reward_parts=parts,
                stop_reason=completion.stop_reason,
            )
        )
    return Group(example_id=example.example_id, rollouts=tuple(rollouts))


def sample_groups(
    examples: Sequence[StepExample],
    prompts: Sequence[Sequence[int]],
    *,
    num_rollouts: int,
    max_completion_tokens: int,
    temperature: float,
    seed: int | Sequence[int],
    sampler: Sampler,
    domain: Domain,
    on_prompt_done: Callable[[], None] | None = None,
) -> list[Group]:
    """Sample and score one group for each step example and its prompt; `seed` as the sampler reads it."""
    completions = sampler.sample(
        prompts,
        num_rollouts=num_rollouts,
        max_completion_tokens=max_completion_tokens,
        temperature=temperature,
        seed=seed,
        on_prompt_done=on_prompt_done,
    )
    return [make_group(*item, domain) for item in zip(examples, prompts, completions, strict=True)]


def collect_groups(
    examples: Sequence[StepExample],
    *,
    drawn: int,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    config: TrainConfig,
    on_sampling: Callable[[int], None],
    on_prompt_done: Callable[[], None],
) -> Batch:
    """Sample until `prompts_per_iteration` groups carry signal, or the refills are used up.

    `on_sampling` is told how many prompts a round has, `on_prompt_done` when one of them is through.
    """
    wanted = config.recipe.prompts_per_iteration
    counts = SignalCounts()
    kept: list[Group] = []
    sampled: list[Group] = []
    start = drawn
    rounds = 0
    while len(kept) < wanted and rounds <= config.max_refills:
        count = wanted - len(kept)
        chosen = [examples[i] for i in draw_indices(len(examples), drawn=drawn, count=count, seed=config.seed)]
        prompts = [policy.encode_prompt(domain.render(example)) for example in chosen]
        on_sampling(count)
        groups = sample_groups(
            chosen,
            prompts,
            num_rollouts=config.rollouts_per_prompt,
            max_completion_tokens=config.max_completion_tokens,
            temperature=config.temperature,
            seed=mix_seed(config.seed, drawn),
            sampler=sampler,
            domain=domain,
            on_prompt_done=on_prompt_done,
        )
        kept += [group for group in groups if counts.add(group, min_reward_std=config.min_reward_std) == "kept"]
        sampled += groups
        drawn += count
        rounds += 1
    if not kept:
        logger.warning(
            "no group carried signal in %d tries (%d flat, %d all malformed): this iteration makes no update. Where "
            "most are malformed, warm up by SFT first.",
            len(sampled),
            counts.flat,
            counts.all_malformed,
        )
    return Batch(
        rows=tuple(Row(prompt_ids=r.prompt_ids, completion_ids=r.completion_ids) for g in kept for r in g.rollouts),
        advantages=tuple(a for group in kept for a in group_advantages([r.reward for r in group.rollouts])),
        rows_per_group=config.rollouts_per_prompt,
        drawn=drawn - start,
        metrics=counts.metrics() | _sampling_metrics(sampled) | {"groups/refills": rounds - 1},
    )


def _sampling_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return means over everything sampled, kept or not."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    well_formed = [rollout for rollout in rollouts if rollout.reward_parts["well_formed"]]
    similarity = sum(rollout.reward_parts["similarity"] for rollout in well_formed)
    completion_tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
    return {
        "reward/mean": sum(rollout.reward for rollout in rollouts) / len(rollouts),
        "reward/similarity_well_formed": similarity / len(well_formed) if well_formed else 0.0,
        "reward/format_rate": len(well_formed) / len(rollouts),
        "sampling/prompts": len(groups),
        "sampling/prompt_tokens": sum(len(group.rollouts[0].prompt_ids) for group in groups),
        "sampling/completion_tokens": completion_tokens,
        "sampling/completion_tokens_mean": completion_tokens / len(rollouts),
        "sampling/length_stop_share": sum(r.stop_reason == "length" for r in rollouts) / len(rollouts),
    }
