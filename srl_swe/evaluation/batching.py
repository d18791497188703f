"""A sampler of this process as a chat model: the calls of all running episodes are sampled side by side.

An engine that takes up completions while it samples others gets each call at once; any other sampler gets what waits as
a batch. Left out: the engines, and what the calls are for.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srl_swe.closing import Closing
from srl_swe.errors import ConfigError, EpisodeOverError, SamplerError
from srl_swe.evaluation.chat_models import ChatAnswer
from srl_swe.evaluation.spending import EpisodeBudget, Usage
from srl_swe.types import Message

if TYPE_CHECKING:
    from srl_swe.training.samplers import ContinuousSampler, SampledCompletion, Sampler

_SHARE_WAITED = 0.1
"""A batch waits for further calls at most for this share of the time that the one before took: calls that came a little
late would otherwise be batches of their own for ever."""
_CLOSED = "the model was closed while a call waited"
_CLOSE_LIMIT_S = 10.0
"""How long the end waits for what is being sampled; nobody waits for that any more."""


@dataclass(frozen=True, slots=True, eq=False)
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
        max_waiting: int,
    ) -> None:
        """`max_context` in tokens, prompt and completion together; at most `max_waiting` calls are made at once.

        Raises:
            ConfigError: completions leave no room for a prompt.
        """
        self._sampler = sampler
        self._encode_prompt = encode_prompt
        self._encoding = threading.Lock()
        self._max_prompt_tokens = max_context - max_completion_tokens
        self._max_completion_tokens = max_completion_tokens
        self._temperature = temperature
        self._max_waiting = max_waiting
        if self._max_prompt_tokens < 1:
            raise ConfigError(
                f"max_completion_tokens = {max_completion_tokens} leaves no room for a prompt in the model's "
                f"context of {max_context} tokens; lower it"
            )
        self._closed = False
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        add = getattr(sampler, "add", None)
        work = self._serve_batches if add is None else self._serve_continuously
        self._thread = threading.Thread(target=work, name="batches", daemon=True)
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
            if self._closed:
                raise SamplerError(_CLOSED)
            self._calls.put(call)
            sampled = call.answer.result()
            charge.usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(sampled.ids))
        return ChatAnswer(text=sampled.text, cut_off=sampled.stop_reason == "length")

    def close(self) -> None:
        """End the thread after what it works on, in the background where that takes long; calls that wait fail."""
        self._closed = True
        self._calls.put(None)
        self._thread.join(_CLOSE_LIMIT_S)

    def _serve_batches(self) -> None:
        last_s = 0.0
        while (calls := self._waiting(last_s)) is not None:
            started = time.monotonic()
            try:
                groups = self._sampler.sample(
                    [call.prompt for call in calls],
                    num_rollouts=1,
                    max_completion_tokens=self._max_completion_tokens,
                    temperature=self._temperature,
                    seed=[call.seed for call in calls],
                )
            except Exception as error:  # noqa: BLE001 - those who asked raise it
                _fail(calls, error)
                continue
            last_s = time.monotonic() - started
            for call, group in zip(calls, groups, strict=True):
                call.answer.set_result(group[0])

    def _waiting(self, last_s: float) -> list[_Call] | None:
        """Return the calls that wait, at least one; None where the model was closed, after failing those."""
        batch = [self._calls.get()]
        until = time.monotonic() + _SHARE_WAITED * last_s
        while len(batch) < self._max_waiting and batch[-1] is not None:
            try:
                batch.append(self._calls.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        if batch[-1] is not None:
            return [call for call in batch if call is not None]
        _fail([call for call in batch if call is not None], SamplerError(_CLOSED))
        return None

    def _serve_continuously(self) -> None:
        sampler: ContinuousSampler = self._sampler  # type: ignore[assignment]
        running: dict[str, _Call] = {}
        while True:
            try:
                # Wait for a call only where there is nothing to go on with.
                while not running or not self._calls.empty():
                    call = self._calls.get()
                    if call is None:
                        _fail(list(running.values()), SamplerError(_CLOSED))
                        return
                    try:
                        name = sampler.add(
                            call.prompt,
                            max_completion_tokens=self._max_completion_tokens,
                            temperature=self._temperature,
                            seed=call.seed,
                        )
                    except Exception as error:  # noqa: BLE001 - the one who asked raises it
                        _fail([call], error)
                        continue
                    running[name] = call
                for name, sampled in sampler.step():
                    if name in running:
                        running.pop(name).answer.set_result(sampled)
            except Exception as error:  # noqa: BLE001 - those who asked raise it
                _fail(list(running.values()), error)
                running.clear()


def _fail(calls: Sequence[_Call], error: Exception) -> None:
    """Fail the calls by the sampler: whatever it raised, out of memory too, is not the fault of who asked."""
    if not isinstance(error, SamplerError):
        failure = SamplerError(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        error = failure
    for call in calls:
        call.answer.set_exception(error)
