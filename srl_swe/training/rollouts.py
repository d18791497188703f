"""Step groups for SRL: sample, score, keep the groups that carry signal, replace the others.

Leaves out the sampling engine and the update.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from srl_swe.errors import MalformedCompletionError
from srl_swe.rewards import MALFORMED_REWARD
from srl_swe.training.advantages import SignalCounts, group_advantages, group_signal
from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Domain
from srl_swe.training.faults import memory_explained
from srl_swe.training.filling import fill_iteration
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.training.refill import FIRST_STATE, RefillState
from srl_swe.training.samplers import SampledCompletion, Sampler
from srl_swe.types import Group, Rollout, StepExample

logger = logging.getLogger(__name__)


def score_completion(text: str, example: StepExample, domain: Domain) -> tuple[float, dict[str, float]]:
    """Return the reward of a completion and its parts; similarity is 0 where the format is broken."""
    try:
        completion = domain.parse(text)
    except MalformedCompletionError:
        return _malformed()
    similarity = domain.score(completion.action, example.expert_action)
    return similarity, {"similarity": similarity, "well_formed": 1.0}


def _malformed() -> tuple[float, dict[str, float]]:
    return MALFORMED_REWARD, {"similarity": 0.0, "well_formed": 0.0}


def make_group(
    example: StepExample, prompt_ids: Sequence[int], completions: Sequence[SampledCompletion], domain: Domain
) -> Group:
    """Score the completions of one prompt. One that was cut off at the length limit never ended: it is malformed."""
    rollouts = []
    for completion in completions:
        ended = completion.stop_reason == "stop"
        reward, parts = score_completion(completion.text, example, domain) if ended else _malformed()
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
    sizes = {
        "prompts": len(prompts),
        "tokens of the longest prompt": max(map(len, prompts), default=0),
        "rollouts per prompt": num_rollouts,
        "max_completion_tokens": max_completion_tokens,
    }
    with memory_explained("sampling", sizes, advice="lower --cached-tokens and --concurrent-rollouts"):
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
    refill: RefillState = FIRST_STATE,
) -> Batch:
    """Sample until `prompts_per_iteration` groups carry signal, or the refills are used up.

    `on_sampling` is told how many prompts a round has, `on_prompt_done` when one of them is through.
    """
    counts = SignalCounts()

    def sample(indices: Sequence[int], seed: int) -> list[Group]:
        on_sampling(len(indices))
        return _sample_round([examples[i] for i in indices], seed, policy, sampler, domain, config, on_prompt_done)

    filled = fill_iteration(
        len(examples),
        drawn=drawn,
        refill=refill,
        config=config,
        sample=sample,
        signal_of=lambda group: counts.add(group, min_reward_std=config.min_reward_std),
    )
    if not filled.trained:
        _warn_of_no_signal(counts, len(filled.sampled))
    metrics = counts.metrics() | _sampling_metrics(filled.sampled)
    metrics |= _account(filled.sampled, filled.trained, filled.surplus, config) | filled.metrics
    return _batch_of(filled.trained, config, drawn=filled.drawn, metrics=metrics, refill=filled.refill)


def _sample_round(
    chosen: Sequence[StepExample],
    seed: int,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    config: TrainConfig,
    on_prompt_done: Callable[[], None],
) -> list[Group]:
    return sample_groups(
        chosen,
        [policy.encode_prompt(domain.render(example)) for example in chosen],
        num_rollouts=config.rollouts_per_prompt,
        max_completion_tokens=config.max_completion_tokens,
        temperature=config.temperature,
        seed=seed,
        sampler=sampler,
        domain=domain,
        on_prompt_done=on_prompt_done,
    )


def _warn_of_no_signal(counts: SignalCounts, num_sampled: int) -> None:
    logger.warning(
        "no group carried signal in %d tries (%d flat, %d all malformed): this iteration makes no update. Where "
        "most are malformed, warm up by SFT first.",
        num_sampled,
        counts.flat,
        counts.all_malformed,
    )


def _batch_of(
    groups: Sequence[Group], config: TrainConfig, *, drawn: int, metrics: Mapping[str, float], refill: RefillState
) -> Batch:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    divide = config.loss != "dr_grpo"
    rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]
    return Batch(
        rows=tuple(Row(prompt_ids=r.prompt_ids, completion_ids=r.completion_ids) for r in rollouts),
        advantages=tuple(a for rewards_G in rewards for a in group_advantages(rewards_G, divide_by_std=divide)),
        rows_per_group=config.rollouts_per_prompt,
        drawn=drawn,
        metrics=metrics,
        example_ids=tuple(group.example_id for group in groups for _ in group.rollouts),
        sampling_logprobs=tuple(rollout.sampling_logprobs for rollout in rollouts),
        counted=tuple(_counts_in_loss(rollout, config) for rollout in rollouts),
        refill=refill,
    )


def _counts_in_loss(rollout: Rollout, config: TrainConfig) -> bool:
    return not (config.mask_overlong and rollout.stop_reason == "length")


def _account(
    sampled: Sequence[Group], trained: Sequence[Group], surplus: Sequence[Group], config: TrainConfig
) -> dict[str, float]:
    """Say where every rollout and completion token went: sampled = trained + masked + surplus + without signal.

    The last is flat or all malformed, told apart. `rollouts/malformed` and `rollouts/length_stop` are over everything
    sampled, whatever became of the group.
    """
    rest = [group for group in sampled if group_signal(group, min_reward_std=config.min_reward_std) == "flat"]
    kept_or_flat = {id(group) for group in (*trained, *surplus, *rest)}
    in_batch = [rollout for group in trained for rollout in group.rollouts]
    parts = {
        "sampled": _rollouts(sampled),
        "trained": [rollout for rollout in in_batch if _counts_in_loss(rollout, config)],
        "masked": [rollout for rollout in in_batch if not _counts_in_loss(rollout, config)],
        "surplus": _rollouts(surplus),
        "flat": _rollouts(rest),
        "all_malformed": _rollouts([group for group in sampled if id(group) not in kept_or_flat]),
        "malformed": [rollout for rollout in _rollouts(sampled) if not rollout.reward_parts["well_formed"]],
        "length_stop": [rollout for rollout in _rollouts(sampled) if rollout.stop_reason == "length"],
    }
    metrics: dict[str, float] = {f"rollouts/{name}": len(rollouts) for name, rollouts in parts.items()}
    for name, rollouts in parts.items():
        metrics[f"rollout_tokens/{name}"] = sum(len(rollout.completion_ids) for rollout in rollouts)
    return metrics


def _rollouts(groups: Sequence[Group]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def _sampling_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return means over everything sampled, kept or not."""
    rollouts = _rollouts(groups)
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
