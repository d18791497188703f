"""Groups that go on from one state in the middle of an episode, in real containers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL, owner_labels
from srl_swe.errors import ConfigError
from srl_swe.software_engineering import episode_starts
from srl_swe.training.batches import Batch
from srl_swe.training.episode_config import EpisodeConfig
from srl_swe.training.outcome import collect_episodes
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.samplers import mix_seed

from .episode_world import ACTING_DOMAIN, FIX_TOKEN, ScriptedTokens, acting, acting_config, letter_instances
from .test_episodes import kill_once, own_containers

Ids = Callable[..., tuple[int, ...]]

pytestmark = pytest.mark.docker


def own_snapshots(engine: Engine) -> list[str]:
    mine = owner_labels("snapshot").items()
    return [image.id for image in engine.list_images(f"{LABEL}=snapshot") if mine <= image.labels.items()]


def collect(
    engine: Engine,
    model: Path,
    policy: Policy,
    output: Path,
    scripts: Sequence[Sequence[Sequence[int]]],
    before_batch: Callable[[int], object] = lambda _: None,
) -> tuple[Batch, ScriptedTokens]:
    """Collect one group of four that forks after one action; the lead's script comes last.

    A script's answers count from the start of the episode.
    """
    config = acting_config(model, output, prompts_per_iteration=1, fork_after_steps=1)
    seed = mix_seed(mix_seed(config.seed, 0), 0)
    sampler = ScriptedTokens(
        policy, {mix_seed(seed, number): script for number, script in enumerate(scripts)}, before_batch=before_batch
    )
    done: list[int] = []
    batch = collect_episodes(
        episode_starts(letter_instances("a")),
        drawn=0,
        policy=policy,
        sampler=sampler,
        domain=ACTING_DOMAIN,
        acting=acting(engine, config),
        config=config,
        processes=Processes(),
        on_sampling=lambda _: None,
        on_episode_done=lambda: done.append(1),
    )
    assert len(done) == 4
    assert own_containers(engine) == set()
    assert own_snapshots(engine) == []
    return batch, sampler


def test_all_go_on_from_the_leads_state_and_only_that_is_compared(
    acting_engine: Engine,
    acting_model: Path,
    acting_policy: Policy,
    tmp_path: Path,
    ids: Ids,
) -> None:
    look, fix, submit = ids("h|ls"), ids("h|", FIX_TOKEN), ids("h|submit")
    scripts = [[look, submit], [look, fix, submit], [look, submit], [look, fix, submit], [look]]
    batch, sampler = collect(acting_engine, acting_model, acting_policy, tmp_path, scripts)
    # One leads, then four go on from what it saw.
    assert [len(fed) for fed in sampler.fed] == [1, 4, 2]
    assert "ls state" in acting_policy.decode_completion(list(sampler.fed[1][3]))
    assert len(set(sampler.fed[1])) == 1
    # The lead's own answer is no row of anybody; rewards are 0, 1, 0, 1.
    assert [row.completion_ids for row in batch.rows] == [submit, fix, submit, submit, fix, submit]
    assert batch.advantages == pytest.approx([-1, 1, 1, -1, 1, 1])
    assert batch.metrics["groups/forked"] == 1
    assert batch.metrics["episode_tokens/lead"] == len(look)
    assert batch.metrics["episode_tokens/sampled"] == batch.metrics["sampling/completion_tokens"]
    assert batch.metrics["episodes/steps_mean"] == 2.5


def test_what_the_lead_did_stands_also_after_a_container_was_lost(
    acting_engine: Engine,
    acting_model: Path,
    acting_policy: Policy,
    tmp_path: Path,
    ids: Ids,
) -> None:
    look, fix, submit = ids("h|ls"), ids("h|", FIX_TOKEN), ids("h|submit")
    scripts = [[fix, submit], [fix, look, submit], [fix, submit], [fix, look, submit], [fix]]
    batch, sampler = collect(
        acting_engine, acting_model, acting_policy, tmp_path, scripts, before_batch=kill_once(acting_engine, 1)
    )
    assert batch.metrics["episodes/resolved"] == 4
    assert batch.metrics["episodes/invalid"] == 0
    assert batch.metrics["episode_tokens/invalid"] > 0
    assert all(len(fed) <= 4 for fed in sampler.fed)


def test_where_the_lead_ends_before_the_fork_the_group_begins_at_the_start(
    acting_engine: Engine,
    acting_model: Path,
    acting_policy: Policy,
    tmp_path: Path,
    ids: Ids,
) -> None:
    fix, submit = ids("h|", FIX_TOKEN), ids("h|submit")
    batch, sampler = collect(
        acting_engine, acting_model, acting_policy, tmp_path, [[submit], [fix, submit], [submit], [submit], [submit]]
    )
    assert [len(fed) for fed in sampler.fed] == [1, 4, 1]
    assert [row.completion_ids for row in batch.rows] == [submit, fix, submit, submit, submit]
    assert batch.metrics["groups/forked"] == 0
    assert batch.metrics["episode_tokens/lead"] == len(submit)
    assert batch.metrics["episodes/resolved"] == 1


def test_a_fork_lies_before_the_step_limit() -> None:
    with pytest.raises(ConfigError, match=r"fork_after_steps must be in \[0, max_steps = 3\), found 3"):
        EpisodeConfig(max_steps=3, fork_after_steps=3)
    assert replace(EpisodeConfig(), fork_after_steps=2).fork_after_steps == 2
