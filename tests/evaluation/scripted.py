"""A sampler that replays written completions: the model's place in tests of the agent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from srl_swe.errors import SamplerError
from srl_swe.prompts import write
from srl_swe.training.samplers import SampledCompletion
from srl_swe.types import Instance, Message
from tests.evaluation.conftest import tiny_instances

MAX_CONTEXT = 20_000
FIX = write("The sign is wrong.", "sed -i 's/a - b/a + b/' calc.py")
SUBMIT = write("It is fixed.", "submit")


def encode(messages: list[Message]) -> list[int]:
    """One token per byte."""
    return list("\n".join(message["content"] for message in messages).encode())


def told_apart(count: int) -> tuple[Instance, ...]:
    """Tiny instances whose prompts say which they are."""
    return tuple(replace(instance, problem_statement=instance.instance_id) for instance in tiny_instances(count))


class ScriptedSampler:
    """Gives each instance the next of its completions; the last one is repeated for ever."""

    def __init__(
        self, scripts: Mapping[str, Sequence[str]], *, before_batch: Callable[[int], object] = lambda _: None
    ) -> None:
        self._scripts: dict[str, Iterator[str]] = {name: iter(script) for name, script in scripts.items()}
        self._last: dict[str, str] = {}
        self._before_batch = before_batch
        self.prompts: list[list[str]] = []
        """The decoded prompts, batch by batch."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_rollouts: int,
        max_completion_tokens: int,
        temperature: float,
        seed: int,
        on_prompt_done: Callable[[], None] | None = None,
    ) -> list[list[SampledCompletion]]:
        self._before_batch(len(self.prompts))
        texts = [bytes(prompt).decode() for prompt in prompts]
        self.prompts.append(texts)
        return [[self._completion(text)] * num_rollouts for text in texts]

    def update_weights(self, policy: Any) -> None:
        raise SamplerError("scripts have no weights")

    def _completion(self, prompt: str) -> SampledCompletion:
        name = prompt.split("<issue>\n")[1].split("\n</issue>")[0]
        text = self._last[name] = next(self._scripts[name], self._last.get(name, ""))
        ids = tuple(text.encode())
        return SampledCompletion(ids=ids, logprobs=(0.0,) * len(ids), text=text, stop_reason="stop")
