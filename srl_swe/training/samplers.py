"""Sampling completions from the policy: the protocol, what it gives, and its seeds.

Leaves out the engines, one file each, and prompts' texts and rewards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from srl_swe.training.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledCompletion:
    """One completion as it was sampled."""

    ids: tuple[int, ...]
    """Ends with the stop token when `stop_reason` is "stop"."""
    logprobs: tuple[float, ...]
    """Under the distribution sampled from, at its temperature; at temperature 0 under the plain distribution."""
    text: str
    stop_reason: Literal["stop", "length"]


class Sampler(Protocol):
    """Samples from the policy it was last given."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_rollouts: int,
        max_completion_tokens: int,
        temperature: float,
        seed: int | Sequence[int],
        on_prompt_done: Callable[[], None] | None = None,
    ) -> list[list[SampledCompletion]]:
        """Return `num_rollouts` completions per prompt, in order. Temperature 0 = greedy.

        With one seed, the random numbers of a prompt depend on it and on the prompt's place in `prompts`; with a
        sequence of one seed per prompt, on the prompt's own alone.

        Raises:
            SamplerError: the engine failed.
        """

    def update_weights(self, policy: Policy) -> None:
        """Sample from the policy as it is now."""


class ContinuousSampler(Sampler, Protocol):
    """Takes up completions while it samples others. Serves one thread."""

    def add(self, prompt: Sequence[int], *, max_completion_tokens: int, temperature: float, seed: int) -> str:
        """Begin a completion of the prompt and return its name.

        Raises:
            SamplerError: the engine refuses the prompt, or failed.
        """

    def step(self) -> list[tuple[str, SampledCompletion]]:
        """Go on with what was begun, by about a token each; return what is complete now, with the names.

        Raises:
            SamplerError: the engine failed.
        """


def make_completion(ids: Sequence[int], logprobs: Sequence[float], policy: Policy) -> SampledCompletion:
    """Return the completion that these tokens are; it has ended where the last is a stop token."""
    return SampledCompletion(
        ids=tuple(ids),
        logprobs=tuple(logprobs),
        text=policy.decode_completion(list(ids)),
        stop_reason="stop" if ids[-1] in policy.stop_ids else "length",
    )


def prompt_seeds(seed: int | Sequence[int], num_prompts: int) -> list[int]:
    """Return one seed per prompt: those that were given, or one seed mixed with each prompt's place."""
    if isinstance(seed, int):
        return [mix_seed(seed, place) for place in range(num_prompts)]
    assert len(seed) == num_prompts, f"{len(seed)} seeds for {num_prompts} prompts"
    return list(seed)


def mix_seed(seed: int, index: int) -> int:
    """Return a 63-bit seed that depends on both numbers (SplitMix64's finaliser)."""
    z = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1
