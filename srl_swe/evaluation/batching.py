"""A sampler of this process as a chat model: the calls of all episodes that wait are one batch.

For agents that ask on their own, side by side. Left out: the rounds of the multi-turn agent (`agent`), which batches
by itself, and the engines.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srl_swe.closing import Closing
from srl_swe.errors import EpisodeOverError, SamplerError
from srl_swe.evaluation.chat_models import ChatAnswer
from srl_swe.evaluation.spending import EpisodeBudget, Usage
from srl_swe.types import Message

if TYPE_CHECKING:
    from srl_swe.training.samplers import SampledCompletion, Sampler


@dataclass(frozen=True, slots=True)
class _Call:
    prompt: list[int]
    seed: int
    answer: "Future[SampledCompletion]"


class BatchedModel(Closing):
    """Answers chat messages by a sampler, which one thread calls with everything that waits. Safe for threads."""

    def __init__(
        self,
        sampler: "Sampler",
        encode_prompt: Callable[[list[Message]], list[int]],
        *,
        max_context: int,
        max_completion_tokens: int,
        temperature: float,
    ) -> None:
        """`max_context` in tokens, prompt and completion together."""
        self._sampler = sampler
        self._encode_prompt = encode_prompt
        self._encoding = threading.Lock()
        self._max_prompt_tokens = max_context - max_completion_tokens
        self._max_completion_tokens = max_completion_tokens
        self._temperature = temperature
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def complete(self, messages: Sequence[Message], *, seed: int, budget: EpisodeBudget) -> ChatAnswer:
        """Return the answer to the messages.

        Raises:
            EpisodeOverError: the prompt does not fit into the context, or the budget does not allow the call.
            SamplerError: the sampling engine failed.
        """
        with self._encoding:
            prompt = self._encode_prompt(list(messages))
        if len(prompt) > self._max_prompt_tokens:
            raise EpisodeOverError(
                "context",
                f"the prompt has {len(prompt)} tokens, the model's context room for {self._max_prompt_tokens}",
            )
        most = Usage(prompt_tokens=len(prompt), completion_tokens=self._max_completion_tokens)
        with budget.reserve(most) as charge:
            call = _Call(prompt, seed, Future())
            self._calls.put(call)
            sampled = call.answer.result()
            charge.usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(sampled.ids))
        return ChatAnswer(text=sampled.text, cut_off=sampled.stop_reason == "length")

    def close(self) -> None:
        """End the thread after the batch that it works on; calls that still wait fail."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            batch = [self._calls.get()]
            while not self._calls.empty():
                batch.append(self._calls.get())
            calls = [call for call in batch if call is not None]
            if len(calls) < len(batch):
                for call in calls:
                    call.answer.set_exception(SamplerError("the model was closed while a call waited"))
                return
            try:
                groups = self._sampler.sample(
                    [call.prompt for call in calls],
                    num_rollouts=1,
                    max_completion_tokens=self._max_completion_tokens,
                    temperature=self._temperature,
                    seed=[call.seed for call in calls],
                )
            except Exception as error:  # noqa: BLE001 - those who asked raise it
                for call in calls:
                    call.answer.set_exception(error)
                continue
            for call, group in zip(calls, groups, strict=True):
                call.answer.set_result(group[0])
