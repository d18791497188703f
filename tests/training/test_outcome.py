"""Groups of episodes as training sees them: numbers worked out by hand, and the gradient against plain transformers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from accelerate import Accelerator

from srl_swe.errors import ConfigError
from srl_swe.training.config import Loss, TrainConfig
from srl_swe.training.episode_config import EpisodeConfig
from srl_swe.training.episode_outcomes import EpisodeEnding, InvalidEpisode, PlayedEpisode
from srl_swe.training.filling import Filled
from srl_swe.training.outcome import EpisodeGroup, batch_of_episodes, episode_signal
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.refill import FIRST_STATE
from srl_swe.training.update import update_policy
from srl_swe.types import Rollout

from .episode_world import acting_config

Tokens = tuple[int, ...]


def episode(
    reward: float,
    answers: Sequence[tuple[Tokens, Tokens]],
    *,
    ending: EpisodeEnding = "submitted",
    well_formed: float = 1.0,
) -> PlayedEpisode:
    rollouts = tuple(
        Rollout(
            prompt_ids=prompt,
            completion_ids=completion,
            sampling_logprobs=(-1.0,) * len(completion),
            text="",
            reward=0.0,
            reward_parts={"well_formed": well_formed},
            stop_reason="stop",
        )
        for prompt, completion in answers
    )
    return PlayedEpisode(
        rollouts=rollouts, reward=reward, resolved=reward == 1, ending=ending, num_steps=len(answers), num_lost_tokens=0
    )


ONE = ((1, 2), (3, 4))
"""A prompt of two tokens and an answer of two."""
FIRST = [((1, 2), (3, 31)), ((1, 2, 3, 7, 8, 9), (5, 6, 4, 31))]
"""Two answers; 7, 8, 9 are an observation between them."""
SECOND = [((1, 2), (4, 31)), ((1, 2, 4, 7), (6, 31)), ((1, 2, 4, 7, 6, 9, 9), (5, 31))]
OTHER = [((1, 5), (8, 31))]


def group(*episodes: PlayedEpisode, name: str = "a", invalid: int = 0) -> EpisodeGroup:
    lost = InvalidEpisode(reason="gone", num_lost_tokens=3)
    return EpisodeGroup(example_id=name, episodes=episodes, invalid=(lost,) * invalid)


def filled(*groups: EpisodeGroup) -> Filled[EpisodeGroup]:
    return Filled(trained=groups, surplus=(), sampled=groups, drawn=len(groups), refill=FIRST_STATE, metrics={})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads would cost a tiny model more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(acting_model: Path, tmp_path: Path) -> TrainConfig:
    return acting_config(acting_model, tmp_path)


def test_signals() -> None:
    resolved, failed = episode(1.0, [ONE]), episode(0.0, [ONE])
    assert episode_signal(group(resolved, failed), min_reward_std=1e-4) == "kept"
    assert episode_signal(group(failed, failed), min_reward_std=1e-4) == "flat"
    assert episode_signal(group(resolved, resolved), min_reward_std=1e-4) == "flat"
    assert episode_signal(group(episode(0.5, [ONE]), episode(0.5 + 1e-9, [ONE])), min_reward_std=1e-4) == "flat"
    malformed = episode(0.0, [ONE], ending="malformed", well_formed=0.0)
    assert episode_signal(group(malformed, malformed), min_reward_std=1e-4) == "all_malformed"
    assert episode_signal(group(malformed, resolved), min_reward_std=1e-4) == "kept"
    # One that lost all others has nothing to be compared with; an invalid one is no 0.
    assert episode_signal(group(resolved, invalid=3), min_reward_std=1e-4) == "invalid"
    assert episode_signal(group(resolved, resolved, invalid=2), min_reward_std=1e-4) == "flat"


def test_rows_advantages_and_weights_by_hand(config: TrainConfig) -> None:
    batch = batch_of_episodes(
        filled(group(episode(1.0, FIRST), episode(0.0, OTHER)), group(episode(0.0, OTHER), episode(1.0, SECOND))),
        config,
        {},
    )
    assert [row.completion_ids for row in batch.rows] == [c for _, c in [*FIRST, *OTHER, *OTHER, *SECOND]]
    assert [row.prompt_ids for row in batch.rows] == [p for p, _ in [*FIRST, *OTHER, *OTHER, *SECOND]]
    assert batch.advantages == (1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    assert batch.weights == pytest.approx((2 / 6, 4 / 6, 1, 1, 1 / 3, 1 / 3, 1 / 3))
    assert batch.group_ends() == [3, 7]


def test_a_limit_takes_an_episode_out_of_the_loss_but_not_out_of_its_group(acting_model: Path, tmp_path: Path) -> None:
    config = acting_config(acting_model, tmp_path, mask_overlong=True)
    stopped = episode(0.0, SECOND, ending="step_limit")
    babbling = episode(0.0, OTHER, ending="malformed")
    batch = batch_of_episodes(filled(group(episode(1.0, FIRST), stopped, babbling)), config, {})
    assert batch.counted == (True, True, False, False, False, True)
    assert batch.advantages is not None
    assert batch.advantages[0] == pytest.approx(2**0.5)


@pytest.mark.parametrize(("loss", "tokens_per_pack"), [("grpo", 172), ("grpo", 16), ("dapo", 172), ("dr_grpo", 172)])
def test_the_gradient_is_that_of_the_policys_own_tokens(
    acting_model: Path, tmp_path: Path, loss: str, tokens_per_pack: int
) -> None:
    named = cast(Loss, loss)
    config = acting_config(acting_model, tmp_path, loss=named, max_grad_norm=1e9, max_prompt_tokens=8,
                           max_completion_tokens=8, tokens_per_pack=tokens_per_pack)  # fmt: skip
    episodes = [episode(1.0, FIRST), episode(0.0, SECOND), episode(0.0, OTHER)]
    batch = batch_of_episodes(filled(group(*episodes)), config, {})
    policy = Policy.from_pretrained(acting_model)
    found: dict[str, torch.Tensor] = {}
    update_policy(
        policy,
        batch,
        optimizer=torch.optim.SGD(policy.model.parameters(), lr=0.0),
        processes=Processes(Accelerator(cpu=True)),
        learning_rate=0.0,
        config=config,
        before_step=lambda: found.update({n: p.grad.clone() for n, p in policy.model.named_parameters()}),
    )
    # Rewards 1, 0, 0: mean 1/3, std sqrt(2)/3. With one update the ratio is 1, so d(loss) = -advantage * d(logprob).
    divisor = 1.0 if loss == "dr_grpo" else 2**0.5 / 3
    advantages = [reward / divisor for reward in (2 / 3, -1 / 3, -1 / 3)]
    num_tokens = [6, 6, 2]
    total = torch.zeros(())
    for played, advantage, count in zip(episodes, advantages, num_tokens, strict=True):
        per_token = {
            "grpo": 1 / (3 * count),
            "dapo": 1 / sum(num_tokens),
            "dr_grpo": 1 / (3 * config.episodes.max_steps * config.max_completion_tokens),
        }[loss]
        for rollout in played.rollouts:
            ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
            logprobs = policy.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            start = len(rollout.prompt_ids)
            own = logprobs[start - 1 : -1].gather(1, ids[0, start:, None])
            total = total - advantage * per_token * own.sum()
    policy.model.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    assert found
    for name, parameter in policy.model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-6), name


def test_updates_part_no_group(acting_model: Path, tmp_path: Path) -> None:
    config = acting_config(acting_model, tmp_path, updates_per_iteration=2)
    long, short = group(episode(1.0, FIRST), episode(0.0, SECOND)), group(episode(1.0, OTHER), episode(0.0, OTHER))
    batch = batch_of_episodes(filled(long, short), config, {})
    policy = Policy.from_pretrained(acting_model)
    metrics = update_policy(
        policy,
        batch,
        optimizer=torch.optim.SGD(policy.model.parameters(), lr=0.0),
        processes=Processes(Accelerator(cpu=True)),
        learning_rate=0.0,
        config=config,
    )
    assert metrics["train/updates"] == 2
    # Rewards of opposite sign cancel within a group, so each update's loss is 0 only where both episodes are in it.
    assert metrics["train/loss"] == pytest.approx(0.0, abs=1e-6)


def test_options() -> None:
    with pytest.raises(ConfigError, match=r"similarity_weight must be a number in \[0, 1\], found 1.5"):
        EpisodeConfig(similarity_weight=1.5)
    with pytest.raises(ConfigError, match="max_parallel must be an integer of at least 1, found 0"):
        EpisodeConfig(max_parallel=0)
    with pytest.raises(ConfigError, match="command_timeout_s must be above 0 seconds, found nan"):
        EpisodeConfig(command_timeout_s=float("nan"))


def test_the_papers_recipe_and_what_a_run_writes_down() -> None:
    config = TrainConfig(model="m", output=Path("o"), method="rlvr")
    recipe = config.recipe
    assert (recipe.prompts_per_iteration, recipe.learning_rate, recipe.warmup_ratio, recipe.epochs) == (
        128,
        5e-7,
        0,
        30,
    )
    assert config.checkpoint_interval == 1
    assert config.longest_sequence == 40 * 1024
    assert config.as_json()["max_steps"] == 40
    # Runs of the other methods go on where they were before there were episodes.
    assert "max_steps" not in TrainConfig(model="m", output=Path("o")).as_json()
