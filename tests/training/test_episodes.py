"""Episodes in real containers: what is kept of them as tokens, how they end, what infrastructure failures become."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL, owner_labels
from srl_swe.errors import ContainerError
from srl_swe.software_engineering import acting_in_containers, episode_starts
from srl_swe.training.config import TrainConfig
from srl_swe.training.episode_outcomes import EpisodeJob, EpisodeOutcome, PlayedEpisode
from srl_swe.training.episodes import play_episodes
from srl_swe.training.outcome import collect_episodes, validate_episodes
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.samplers import mix_seed
from srl_swe.types import Step, Trajectory

from .episode_world import ACTING_DOMAIN, FIX_TOKEN, ScriptedTokens, acting, acting_config, letter_instances

pytestmark = pytest.mark.docker


def own_containers(engine: Engine) -> set[str]:
    mine = owner_labels().items()
    return {container.id for container in engine.list_containers(LABEL) if mine <= container.labels.items()}


@pytest.fixture
def config(acting_model: Path, tmp_path: Path) -> TrainConfig:
    return acting_config(acting_model, tmp_path)


def play(
    engine: Engine, config: TrainConfig, policy: Policy, scripts: Sequence[Sequence[Sequence[int]]], **options: object
) -> tuple[list[EpisodeOutcome], ScriptedTokens]:
    [start] = episode_starts(letter_instances("a"))
    sampler = ScriptedTokens(policy, dict(enumerate(scripts)), **options)  # type: ignore[arg-type]
    outcomes = play_episodes(
        [EpisodeJob(start=start, seed=seed) for seed in range(len(scripts))],
        policy=policy,
        sampler=sampler,
        domain=ACTING_DOMAIN,
        acting=acting(engine, config),
        config=config,
        temperature=1.0,
    )
    assert own_containers(engine) == set()
    return outcomes, sampler


def test_tokens_in_are_tokens_out(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    fix, malformed, submit = ids("h|", FIX_TOKEN), ids("a b"), ids("h|submit")
    # What was sampled is not what its text would be encoded to.
    text = acting_policy.decode_completion(list(fix))
    assert text == "h|fix"
    assert tuple(acting_policy.encode_completion(text)) == ids("h|fix") != fix
    [first, second], sampler = play(acting_engine, config, acting_policy, [[fix, malformed, submit], [submit]])
    assert isinstance(first, PlayedEpisode)
    assert isinstance(second, PlayedEpisode)
    assert [rollout.completion_ids for rollout in first.rollouts] == [fix, malformed, submit]
    assert [rollout.prompt_ids for rollout in first.rollouts] == [batch[0] for batch in sampler.fed]
    assert [rollout.sampling_logprobs[0] for rollout in first.rollouts] == [-0.125] * 3
    assert [rollout.reward_parts["well_formed"] for rollout in first.rollouts] == [1.0, 0.0, 1.0]
    # Both begin with the very prompt that SRL and evaluation render; then the observation is in the prompt.
    assert sampler.fed[0][0] == sampler.fed[0][1]
    assert "say a fix done" in acting_policy.decode_completion(list(sampler.fed[1][0]))
    assert "no command" in acting_policy.decode_completion(list(sampler.fed[2][0])).replace("<unk>", "")
    assert (first.reward, first.resolved, first.ending, first.num_steps) == (1.0, True, "submitted", 2)
    assert (second.reward, second.resolved, second.ending, second.num_steps) == (0.0, False, "submitted", 1)


def test_every_limit_ends_an_episode_and_what_stands_is_judged(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    fix, look, malformed = ids("h|", FIX_TOKEN), ids("h|ls"), ids("a b")
    long = replace(config, episodes=replace(config.episodes, max_episode_tokens=16))
    scripts = [
        [fix, look, look],
        [fix, malformed, malformed],
        # 4 + 12 + 12 tokens.
        [fix, ids("aaaaaaaaa|a"), ids("aaaaaaaaa|a")],
        # An observation that the prompt has no room for.
        [fix, ids("h|env")],
    ]
    outcomes, _ = play(acting_engine, long, acting_policy, scripts)
    ends = [outcome.ending for outcome in outcomes if isinstance(outcome, PlayedEpisode)]
    assert ends == ["step_limit", "malformed", "token_limit", "context"]
    assert all(isinstance(outcome, PlayedEpisode) and outcome.resolved for outcome in outcomes)
    # Nobody sampled what ended them.
    assert [len(outcome.rollouts) for outcome in outcomes if isinstance(outcome, PlayedEpisode)] == [3, 3, 2, 2]


def test_the_time_limit(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    hasty = replace(config, episodes=replace(config.episodes, episode_limit_s=1.0))
    script = [ids("h|", FIX_TOKEN), ids("h|ls")]
    [outcome], _ = play(acting_engine, hasty, acting_policy, [script], before_batch=lambda _: time.sleep(1.1))
    assert isinstance(outcome, PlayedEpisode)
    assert outcome.ending == "time_limit"


def kill_once(engine: Engine, in_batch: int) -> Callable[[int], None]:
    """Remove one container in the middle of its episode, the first that was started."""

    def kill(batch: int) -> None:
        if batch == in_batch:
            engine.remove(min(own_containers(engine)))

    return kill


def test_a_killed_container_begins_its_episode_again_with_the_same_tokens(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    script = [ids("h|", FIX_TOKEN), ids("h|submit")]
    outcomes, sampler = play(
        acting_engine, config, acting_policy, [script, script], before_batch=kill_once(acting_engine, 1)
    )
    rewards = [outcome.reward for outcome in outcomes if isinstance(outcome, PlayedEpisode)]
    assert rewards == [1.0, 1.0]
    lost = [outcome.num_lost_tokens for outcome in outcomes]
    # The killed attempt had sampled both answers.
    assert sorted(lost) == [0, sum(map(len, script))]
    assert len(sampler.fed) == 4


def test_an_invalid_episode_is_masked_and_never_a_reward_of_0(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    fragile = replace(config, prompts_per_iteration=1, episodes=replace(config.episodes, infrastructure_attempts=1))
    fix, submit, look = ids("h|", FIX_TOKEN), ids("h|submit"), ids("h|ls")
    seed = mix_seed(mix_seed(config.seed, 0), 0)
    scripts = [[fix, submit], [look, submit], [look, look, submit], [fix, look, submit]]
    sampler = ScriptedTokens(
        acting_policy,
        {mix_seed(seed, number): script for number, script in enumerate(scripts)},
        before_batch=kill_once(acting_engine, 1),
    )
    batch = collect_episodes(
        episode_starts(letter_instances("a")),
        drawn=0,
        policy=acting_policy,
        sampler=sampler,
        domain=ACTING_DOMAIN,
        acting=acting(acting_engine, config),
        config=fragile,
        processes=Processes(),
        on_sampling=lambda _: None,
        on_episode_done=lambda: None,
    )
    # One of them has lost its container, whichever it is.
    left = [[script for place, script in enumerate(scripts) if place != killed] for killed in range(4)]
    rows = [row.completion_ids for row in batch.rows]
    killed = [[answer for script in some for answer in script] for some in left].index(rows)
    rewards = [reward for place, reward in enumerate([1.0, 0.0, 0.0, 1.0]) if place != killed]
    mean = sum(rewards) / 3
    std = (sum((reward - mean) ** 2 for reward in rewards) / 3) ** 0.5
    expected = zip(rewards, left[killed], strict=True)
    assert batch.advantages == pytest.approx([(reward - mean) / std for reward, script in expected for _ in script])
    assert batch.metrics["episodes/invalid"] == 1
    assert batch.metrics["reward/mean"] == pytest.approx(mean)
    assert batch.metrics["episodes/resolve_rate"] == sum(rewards) / 4
    assert batch.metrics["episodes/trained"] == 3
    assert batch.metrics["episode_tokens/invalid"] > 0
    names = ("trained", "masked", "surplus", "flat", "all_malformed", "alone", "invalid")
    for unit in ("episodes", "episode_tokens"):
        assert batch.metrics[f"{unit}/sampled"] == sum(batch.metrics[f"{unit}/{name}"] for name in names)
    assert batch.metrics["episode_tokens/sampled"] == batch.metrics["sampling/completion_tokens"]
    assert own_containers(acting_engine) == set()


def test_where_nothing_can_be_judged_the_run_stops(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    fragile = replace(config, episodes=replace(config.episodes, infrastructure_attempts=1))
    seed = mix_seed(mix_seed(config.seed, 2**40), 0)
    sampler = ScriptedTokens(
        acting_policy, {seed: [ids("h|ls"), ids("h|submit")]}, before_batch=kill_once(acting_engine, 1)
    )
    with pytest.raises(ContainerError, match="ended all 1 episodes, the first on letters-a: ContainerError"):
        validate_episodes(
            episode_starts(letter_instances("a")),
            policy=acting_policy,
            sampler=sampler,
            domain=ACTING_DOMAIN,
            acting=acting(acting_engine, config),
            config=fragile,
            processes=Processes(),
            on_episode_done=lambda: None,
        )
    assert own_containers(acting_engine) == set()


def test_the_reward_can_blend_verdict_and_similarity(
    acting_engine: Engine, config: TrainConfig, acting_policy: Policy, ids: Callable[..., tuple[int, ...]]
) -> None:
    steps = tuple(Step(thought="", action=action, observation="", exit_code=0) for action in ("fix", "submit"))
    expert = Trajectory(
        trajectory_id="t",
        instance_id="letters-a",
        problem_statement="",
        steps=steps,
        patch="",
        source="",
        model="",
        resolved=True,
    )
    blended = replace(config.episodes, similarity_weight=0.5)
    instances = letter_instances("ab")
    starts = episode_starts(instances)
    scripts = {
        0: [ids("h|", FIX_TOKEN), ids("h|submit")],
        1: [ids("h|submit")],
        2: [ids("h|submit")],
        3: [ids("a b")] * 2,
    }
    outcomes = play_episodes(
        [EpisodeJob(start=starts[place], seed=seed) for seed, place in enumerate((0, 0, 1, 0))],
        policy=acting_policy,
        sampler=ScriptedTokens(acting_policy, scripts),
        domain=ACTING_DOMAIN,
        acting=acting_in_containers(instances, acting_engine, blended, experts={"letters-a": expert}),
        config=config,
        temperature=1.0,
    )
    # The expert's own steps: 0.5 * (1 + 1) / 2 + 0.5. "submit" for "fix" shares the i: 0.5 * (2 * 1 / 9) / 2.
    # Without an expert the verdict has all of it. What a limit ended earns nothing for an action that was not taken.
    rewards = [outcome.reward for outcome in outcomes if isinstance(outcome, PlayedEpisode)]
    assert rewards == pytest.approx([1.0, 0.5 * 2 / 9 / 2, 0.0, 0.0])
