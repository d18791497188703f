"""How well the policy proposes the expert's next action on held-out steps, beside a baseline that copies."""

from collections.abc import Callable, Sequence

from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Domain
from srl_swe.training.policy import Policy
from srl_swe.training.rollouts import sample_groups
from srl_swe.training.samplers import Sampler, mix_seed
from srl_swe.types import Rollout, StepExample

VALIDATION_STREAM = 2**40
"""Far from every iteration's seed stream."""


def copy_last_similarity(examples: Sequence[StepExample], domain: Domain) -> float:
    """Return the mean similarity of proposing the previous expert action again; 0 where there is none."""
    scores = [domain.score(e.history[-1].action, e.expert_action) if e.history else 0.0 for e in examples]
    return sum(scores) / len(scores)


def sample_held_out(
    examples: Sequence[StepExample],
    *,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    config: TrainConfig,
    on_prompt_done: Callable[[], None],
) -> list[Rollout]:
    """Sample one scored completion for each step example, greedily unless the configuration says otherwise."""
    prompts = [policy.encode_prompt(domain.render(example)) for example in examples]
    groups = sample_groups(
        examples,
        prompts,
        num_rollouts=1,
        max_completion_tokens=config.max_completion_tokens,
        temperature=config.validation_temperature,
        seed=mix_seed(config.seed, VALIDATION_STREAM),
        sampler=sampler,
        domain=domain,
        on_prompt_done=on_prompt_done,
    )
    return [group.rollouts[0] for group in groups]


def validate(
    examples: Sequence[StepExample],
    *,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    config: TrainConfig,
    on_prompt_done: Callable[[], None],
) -> dict[str, float]:
    """Return mean reward, mean similarity (0 where malformed), format rate and the copy-last baseline."""
    rollouts = sample_held_out(
        examples, policy=policy, sampler=sampler, domain=domain, config=config, on_prompt_done=on_prompt_done
    )
    count = len(rollouts)
    return {
        "validation/reward": sum(rollout.reward for rollout in rollouts) / count,
        "validation/similarity": sum(rollout.reward_parts["similarity"] for rollout in rollouts) / count,
        "validation/format_rate": sum(rollout.reward_parts["well_formed"] for rollout in rollouts) / count,
        "validation/copy_last_similarity": copy_last_similarity(examples, domain),
        "validation/completion_tokens_mean": sum(len(rollout.completion_ids) for rollout in rollouts) / count,
        "validation/examples": count,
    }
