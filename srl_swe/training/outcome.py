"""Outcome RL: groups of episodes on one instance -> what an iteration trains on; and the same episodes for validation.

The reward is the episode's, the advantage relative to the episodes of its group that have a reward: invalid ones are
left out of mean, std and loss. Every answer of an episode is a row, prompt and completion as they were sampled; only
completions are targets. Leaves out how episodes are played (`episodes.py`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from srl_swe.errors import ContainerError
from srl_swe.training.advantages import Signal, group_advantages, population_std
from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Acting, Domain
from srl_swe.training.episode_groups import play_groups
from srl_swe.training.episode_outcomes import (
    EpisodeEnding,
    EpisodeJob,
    EpisodeOutcome,
    InvalidEpisode,
    Lead,
    PlayedEpisode,
)
from srl_swe.training.filling import Filled, fill_iteration
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.training.processes import Processes
from srl_swe.training.refill import FIRST_STATE, RefillState
from srl_swe.training.samplers import Sampler, mix_seed
from srl_swe.training.validation import VALIDATION_STREAM
from srl_swe.types import StepExample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeGroup:
    """The episodes of one instance that are compared with each other."""

    example_id: str
    episodes: tuple[PlayedEpisode, ...]
    """Those with a reward."""
    invalid: tuple[InvalidEpisode, ...] = ()
    lead: Lead | None = None
    """What was played before them, to fork them off; None = nothing."""

    @property
    def num_lost_tokens(self) -> int:
        """Return the completion tokens of attempts that infrastructure ended."""
        outcomes: tuple[EpisodeOutcome, ...] = (*self.episodes, *self.invalid)
        return sum(outcome.num_lost_tokens for outcome in outcomes) + (self.lead.num_lost_tokens if self.lead else 0)

    @property
    def num_lead_tokens(self) -> int:
        """Return the completion tokens of the lead, which are not trained on."""
        return self.lead.num_tokens if self.lead else 0


def episode_signal(group: EpisodeGroup, *, min_reward_std: float) -> Signal:
    """Say whether a group is trained on: the population std of its rewards must exceed `min_reward_std`."""
    if len(group.episodes) < 2:
        return "invalid"
    if not any(rollout.reward_parts["well_formed"] for episode in group.episodes for rollout in episode.rollouts):
        return "all_malformed"
    std = population_std([episode.reward for episode in group.episodes])
    return "kept" if std > min_reward_std else "flat"


def collect_episodes(
    examples: Sequence[StepExample],
    *,
    drawn: int,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    acting: Acting,
    config: TrainConfig,
    processes: Processes,
    on_sampling: Callable[[int], None],
    on_episode_done: Callable[[], None],
    refill: RefillState = FIRST_STATE,
) -> Batch:
    """Play groups of episodes until `prompts_per_iteration` carry signal, or the refills are used up.

    Each process has its own `sampler` and plays its share. `on_sampling` is told how many episodes a round has,
    `on_episode_done` when one of them has ended.

    Raises:
        ContainerError: infrastructure left no episode of the iteration with a reward.
    """
    size = config.rollouts_per_prompt

    def sample(indices: Sequence[int], seed: int) -> list[EpisodeGroup]:
        on_sampling(len(indices) * size)
        # One more than a group has, for its lead.
        jobs = [
            [
                EpisodeJob(start=examples[index], seed=mix_seed(mix_seed(seed, place), number))
                for number in range(size + 1)
            ]
            for place, index in enumerate(indices)
        ]
        groups = play_groups(
            [some[:size] for some in jobs],
            leads=[some[size] for some in jobs] if config.episodes.fork_after_steps else [],
            processes=processes,
            policy=policy,
            sampler=sampler,
            domain=domain,
            acting=acting,
            config=config,
            temperature=config.temperature,
            on_episode_done=on_episode_done,
        )
        ids = [examples[index].example_id for index in indices]
        return [_group(name, group.outcomes, lead=group.lead) for name, group in zip(ids, groups, strict=True)]

    signals: list[Signal] = []

    def signal_of(group: EpisodeGroup) -> Signal:
        signals.append(episode_signal(group, min_reward_std=config.min_reward_std))
        return signals[-1]

    filled = fill_iteration(
        len(examples), drawn=drawn, refill=refill, config=config, sample=sample, signal_of=signal_of
    )
    _require_some([group.invalid for group in filled.sampled], [group.episodes for group in filled.sampled])
    counts = Counter(signals)
    if not filled.trained:
        logger.warning(
            "no group carried signal in %d tries (%d flat, %d all malformed, %d invalid): no update is made",
            len(signals), counts["flat"], counts["all_malformed"], counts["invalid"],
        )  # fmt: skip
    metrics: dict[str, float] = {f"groups/{signal}": counts[signal] for signal in get_args(Signal)}
    metrics |= _episode_metrics(filled.sampled) | _account(filled, signals, config) | filled.metrics
    return batch_of_episodes(filled, config, metrics)


def validate_episodes(
    examples: Sequence[StepExample],
    *,
    policy: Policy,
    sampler: Sampler,
    domain: Domain,
    acting: Acting,
    config: TrainConfig,
    processes: Processes,
    on_episode_done: Callable[[], None],
) -> dict[str, float]:
    """Play one episode on each instance and return resolve rate (invalid ones count as asked for) and mean reward.

    Raises:
        ContainerError: infrastructure left no episode with a reward.
    """
    seed = mix_seed(config.seed, VALIDATION_STREAM)
    jobs = [EpisodeJob(start=example, seed=mix_seed(seed, place)) for place, example in enumerate(examples)]
    [played] = play_groups(
        [jobs],
        leads=[],
        processes=processes,
        policy=policy,
        sampler=sampler,
        domain=domain,
        acting=acting,
        config=config,
        temperature=config.validation_temperature,
        on_episode_done=on_episode_done,
    )
    group = _group("validation", played.outcomes)
    _require_some([group.invalid], [group.episodes])
    metrics = _episode_metrics([group])
    return {
        "validation/reward": metrics["reward/mean"],
        "validation/resolve_rate": metrics["episodes/resolve_rate"],
        "validation/format_rate": metrics["reward/format_rate"],
        "validation/steps_mean": metrics["episodes/steps_mean"],
        "validation/truncated_share": metrics["episodes/truncated_share"],
        "validation/completion_tokens_mean": metrics["episodes/completion_tokens_mean"],
        "validation/invalid": len(group.invalid),
        "validation/examples": len(examples),
    }


def _group(example_id: str, outcomes: Sequence[EpisodeOutcome], *, lead: Lead | None = None) -> EpisodeGroup:
    return EpisodeGroup(
        example_id=example_id,
        lead=lead,
        episodes=tuple(outcome for outcome in outcomes if isinstance(outcome, PlayedEpisode)),
        invalid=tuple(outcome for outcome in outcomes if isinstance(outcome, InvalidEpisode)),
    )


def _require_some(invalid: Sequence[Sequence[InvalidEpisode]], played: Sequence[Sequence[PlayedEpisode]]) -> None:
    if any(played):
        return
    [first, *_] = [episode for some in invalid for episode in some]
    count = sum(map(len, invalid))
    raise ContainerError(
        f"infrastructure ended all {count} episodes, the first on {first.reason}. None counts as a reward of 0. See "
        "`srl-swe doctor`, then run the same command again: the run goes on from its last checkpoint"
    )


def batch_of_episodes(filled: Filled[EpisodeGroup], config: TrainConfig, metrics: Mapping[str, float]) -> Batch:
    """Return the groups to train on as rows, one per answer, each with its episode's advantage and share of tokens."""
    rows: list[Row] = []
    advantages: list[float] = []
    weights: list[float] = []
    counted: list[bool] = []
    logprobs: list[tuple[float, ...]] = []
    ids: list[str] = []
    sizes: list[int] = []
    for group in filled.trained:
        rewards_G = [episode.reward for episode in group.episodes]
        for episode, advantage in zip(
            group.episodes, group_advantages(rewards_G, divide_by_std=config.loss != "dr_grpo"), strict=True
        ):
            for rollout in episode.rollouts:
                rows.append(Row(prompt_ids=rollout.prompt_ids, completion_ids=rollout.completion_ids))
                advantages.append(advantage)
                weights.append(len(rollout.completion_ids) / episode.num_completion_tokens)
                counted.append(_counts_in_loss(episode, config))
                logprobs.append(rollout.sampling_logprobs)
                ids.append(group.example_id)
        sizes.append(sum(len(episode.rollouts) for episode in group.episodes))
    return Batch(
        rows=tuple(rows),
        advantages=tuple(advantages),
        rows_per_group=1,
        group_sizes=tuple(sizes),
        weights=tuple(weights),
        counted=tuple(counted),
        drawn=filled.drawn,
        metrics=metrics,
        example_ids=tuple(ids),
        sampling_logprobs=tuple(logprobs),
        refill=filled.refill,
    )


def _counts_in_loss(episode: PlayedEpisode, config: TrainConfig) -> bool:
    return not (config.mask_overlong and episode.ending not in ("submitted", "malformed"))


def _episode_metrics(groups: Sequence[EpisodeGroup]) -> dict[str, float]:
    """Return what all episodes were like, trained on or not."""
    episodes = [episode for group in groups for episode in group.episodes]
    num_invalid = sum(len(group.invalid) for group in groups)
    rollouts = [rollout for episode in episodes for rollout in episode.rollouts]
    endings = Counter(episode.ending for episode in episodes)
    tokens = sum(episode.num_completion_tokens for episode in episodes)
    lost = sum(group.num_lost_tokens for group in groups)
    num_resolved = sum(episode.resolved for episode in episodes)
    num_answers = max(len(rollouts), 1)
    metrics: dict[str, float] = {
        "reward/mean": sum(episode.reward for episode in episodes) / len(episodes),
        "reward/format_rate": sum(rollout.reward_parts["well_formed"] for rollout in rollouts) / num_answers,
        "episodes/resolved": num_resolved,
        "episodes/resolve_rate": num_resolved / (len(episodes) + num_invalid),
        "episodes/steps_mean": sum(episode.num_steps for episode in episodes) / len(episodes),
        "episodes/completion_tokens_mean": tokens / len(episodes),
        "episodes/truncated_share": 1 - endings["submitted"] / len(episodes),
        "sampling/prompts": len(rollouts),
        "sampling/prompt_tokens": sum(len(rollout.prompt_ids) for rollout in rollouts),
        "sampling/completion_tokens": tokens + lost + sum(group.num_lead_tokens for group in groups),
        "sampling/length_stop_share": sum(rollout.stop_reason == "length" for rollout in rollouts) / num_answers,
    }
    return metrics | {f"episodes/ended_{ending}": endings[ending] for ending in get_args(EpisodeEnding)}


def _account(filled: Filled[EpisodeGroup], signals: Sequence[Signal], config: TrainConfig) -> dict[str, float]:
    """Say where every episode and completion token went.

    Episodes: sampled = trained + masked + surplus + flat + all_malformed + alone + invalid, where `alone` have a reward
    but nothing to compare it with. Tokens: the same, those of attempts that infrastructure ended are `invalid`, those
    before forks `lead`.
    """
    of_signal: dict[Signal, list[PlayedEpisode]] = {signal: [] for signal in get_args(Signal)}
    for group, signal in zip(filled.sampled, signals, strict=True):
        of_signal[signal] += group.episodes
    in_batch = [episode for group in filled.trained for episode in group.episodes]
    parts = {
        "trained": [episode for episode in in_batch if _counts_in_loss(episode, config)],
        "masked": [episode for episode in in_batch if not _counts_in_loss(episode, config)],
        "surplus": [episode for group in filled.surplus for episode in group.episodes],
        "flat": of_signal["flat"],
        "all_malformed": of_signal["all_malformed"],
        "alone": of_signal["invalid"],
    }
    counts: dict[str, float] = {name: len(episodes) for name, episodes in parts.items()}
    tokens = {name: sum(episode.num_completion_tokens for episode in episodes) for name, episodes in parts.items()}
    counts["invalid"] = sum(len(group.invalid) for group in filled.sampled)
    tokens["invalid"] = sum(group.num_lost_tokens for group in filled.sampled)
    tokens["lead"] = sum(group.num_lead_tokens for group in filled.sampled)
    metrics = {f"episodes/{name}": count for name, count in counts.items()}
    metrics["groups/forked"] = sum(bool(group.lead and group.lead.forked) for group in filled.sampled)
    metrics |= {f"episode_tokens/{name}": float(count) for name, count in tokens.items()}
    return metrics | {"episodes/sampled": sum(counts.values()), "episode_tokens/sampled": float(sum(tokens.values()))}
