"""The space of all strings, alone and batched."""

import json

import gymnasium as gym
import pytest
from gymnasium.vector import SyncVectorEnv

from srl_swe.environments.spaces import ExitCode, UnicodeText
from tests.environments.text_env import Answer, TextEnv


def test_holds_every_string_and_nothing_else() -> None:
    space = UnicodeText()
    assert all(space.contains(text) for text in ("", "ls -la\n", "日本 \x1b[0m \0 \ud800", "x" * 10**6))
    assert not any(space.contains(other) for other in (b"ls", 1, None, ["ls"]))


def test_length_limit_is_inclusive() -> None:
    assert UnicodeText(3).contains("abc")
    assert not UnicodeText(3).contains("abcd")
    with pytest.raises(ValueError, match="at least 1"):
        UnicodeText(0)


def test_samples_are_seeded_members() -> None:
    first, second = UnicodeText(5, seed=7), UnicodeText(5, seed=7)
    samples = [first.sample() for _ in range(50)]
    assert samples == [second.sample() for _ in range(50)]
    assert all(first.contains(sample) and sample.isalpha() for sample in samples)
    assert len(set(samples)) > 10
    with pytest.raises(ValueError, match="mask"):
        first.sample(mask=[1])


def test_equality_goes_by_the_limit() -> None:
    assert UnicodeText(3) == UnicodeText(3, seed=1)
    assert UnicodeText(3) != UnicodeText(4)
    assert len({UnicodeText(), UnicodeText()}) == 1


def test_batches_are_tuples_of_strings() -> None:
    envs = SyncVectorEnv(
        [lambda: TextEnv([Answer(observation="a")]), lambda: TextEnv([Answer(observation="bc\ud800")])],
    )
    assert isinstance(envs.observation_space, gym.spaces.Tuple) and len(envs.observation_space) == 2
    assert envs.single_observation_space == UnicodeText()
    assert envs.reset()[0] == ("It fails.", "It fails.")
    observations, *_ = envs.step(("ls", "pwd"))
    assert observations == ("a", "bc\ud800") and envs.observation_space.contains(observations)
    first, second = envs.action_space.sample()
    assert envs.action_space.contains((first, second)) and first != second
    envs.close()


@pytest.mark.parametrize("codes", [(ExitCode(1), None), (None, ExitCode(1)), (ExitCode(1), ExitCode(2))])
def test_exit_codes_of_a_batch_may_be_none(codes: tuple[int | None, int | None]) -> None:
    envs = SyncVectorEnv([lambda code=code: TextEnv([Answer(exit_code=code)]) for code in codes])
    envs.reset()
    infos = envs.step(("ls", "pwd"))[4]
    assert tuple(infos["exit_code"]) == codes
    assert json.dumps(ExitCode(3)) == "3" and f"{ExitCode(3)}" == "3"
    envs.close()
