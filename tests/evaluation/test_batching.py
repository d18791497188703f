"""A sampler behind chat messages: what waits is one batch, and every failure reaches who asked."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from srl_swe.errors import EpisodeOverError, SamplerError
from srl_swe.evaluation.batching import BatchedModel
from srl_swe.evaluation.spending import EpisodeBudget, SpendingAccount, Usage
from srl_swe.training.samplers import SampledCompletion
from srl_swe.types import Message
from tests.evaluation.scripted import ScriptedSampler, encode


def about(name: str) -> list[Message]:
    return [{"role": "user", "content": f"<issue>\n{name}\n</issue>"}]


def batched(sampler: Any, *, max_context: int = 1000) -> BatchedModel:
    return BatchedModel(
        sampler, encode, max_context=max_context, max_completion_tokens=100, temperature=0.0, max_waiting=8
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_calls_that_wait_are_one_batch_and_each_gets_its_own_answer() -> None:
    go_on, begun = threading.Event(), threading.Event()

    def hold(batch: int) -> None:
        begun.set()
        assert batch > 0 or go_on.wait(10)

    names = [f"n{number}" for number in range(6)]
    sampler = ScriptedSampler({name: [f"answer to {name}"] for name in names}, before_batch=hold)
    budgets = {name: EpisodeBudget(SpendingAccount()) for name in names}
    with batched(sampler) as model, ThreadPoolExecutor(6) as threads:
        ask = lambda name: model.complete(about(name), seed=0, budget=budgets[name])  # noqa: E731
        first = threads.submit(ask, names[0])
        assert begun.wait(10)
        others = [threads.submit(ask, name) for name in names[1:]]
        wait_for(lambda: model._calls.qsize() == 5)
        go_on.set()
        assert [each.result(10).text for each in [first, *others]] == [f"answer to {name}" for name in names]
    assert [len(batch) for batch in sampler.prompts] == [1, 5]
    used = Usage(prompt_tokens=len(encode(about("n0"))), completion_tokens=len("answer to n0"))
    assert all(budget.used == used for budget in budgets.values())


def test_what_does_not_fit_is_not_sampled() -> None:
    sampler = ScriptedSampler({"n": ["x"]})
    with batched(sampler, max_context=110) as model, pytest.raises(EpisodeOverError) as caught:
        model.complete(about("n"), seed=0, budget=EpisodeBudget(SpendingAccount()))
    assert caught.value.exit_status == "context"
    with batched(sampler) as model, pytest.raises(EpisodeOverError) as caught:
        model.complete(about("n"), seed=0, budget=EpisodeBudget(SpendingAccount(), max_tokens=110))
    assert caught.value.exit_status == "token_limit"
    assert sampler.prompts == []


def test_a_failing_engine_fails_those_who_asked_and_the_end_those_who_wait() -> None:
    go_on, begun = threading.Event(), threading.Event()

    def fail(batch: int) -> None:
        begun.set()
        assert go_on.wait(10)
        raise SamplerError("out of memory")

    model = batched(ScriptedSampler({"n": ["x"]}, before_batch=fail))
    with ThreadPoolExecutor(3) as threads:
        ask = lambda: model.complete(about("n"), seed=0, budget=EpisodeBudget(SpendingAccount()))  # noqa: E731
        first = threads.submit(ask)
        assert begun.wait(10)
        second = threads.submit(ask)
        wait_for(lambda: model._calls.qsize() == 1)
        closing = threads.submit(model.close)
        wait_for(lambda: model._calls.qsize() == 2)
        go_on.set()
        for call, why in ((first, "out of memory"), (second, "closed while a call waited")):
            with pytest.raises(SamplerError, match=why):
                call.result(10)
        closing.result(10)


class ByteByByte:
    """Completes every call a byte a step; takes up further ones in between."""

    def __init__(self, scripts: Mapping[str, str]) -> None:
        self._scripts = scripts
        self._running: dict[str, tuple[str, int]] = {}
        self.most_at_once = 0
        self.may_go_on = threading.Event()

    def add(self, prompt: Sequence[int], *, max_completion_tokens: int, temperature: float, seed: int) -> str:
        name = bytes(prompt).decode().split("\n")[1]
        if name not in self._scripts:
            raise SamplerError(f"{name} is refused")
        self._running[name] = (self._scripts[name], 0)
        self.most_at_once = max(self.most_at_once, len(self._running))
        return name

    def step(self) -> list[tuple[str, SampledCompletion]]:
        if not self.may_go_on.is_set():
            time.sleep(0.005)
            return []
        self._running = {name: (text, length + 1) for name, (text, length) in self._running.items()}
        complete = {name: text for name, (text, length) in self._running.items() if length == len(text)}
        for name in complete:
            del self._running[name]
        if "fatal" in self._running:
            raise SamplerError("out of memory")
        return [(name, completion(text)) for name, text in complete.items()]


def completion(text: str) -> SampledCompletion:
    ids = tuple(text.encode())
    return SampledCompletion(ids=ids, logprobs=(0.0,) * len(ids), text=text, stop_reason="stop")


def test_whatever_a_sampler_raises_is_the_samplers_failure() -> None:
    def fail(batch: int) -> None:
        raise RuntimeError("CUDA out of memory")

    sampler = ScriptedSampler({"n": ["x"]}, before_batch=fail)
    with batched(sampler) as model, pytest.raises(SamplerError, match="RuntimeError: CUDA out of memory"):
        model.complete(about("n"), seed=0, budget=EpisodeBudget(SpendingAccount()))
    with pytest.raises(SamplerError, match="was closed"):
        model.complete(about("n"), seed=0, budget=EpisodeBudget(SpendingAccount()))


def test_an_engine_that_takes_up_calls_gets_each_at_once() -> None:
    sampler = ByteByByte({"long": "l" * 50_000, "short": "s", "fatal": "ff"})
    finished: list[str] = []
    with batched(sampler) as model, ThreadPoolExecutor(3) as threads:

        def ask(name: str) -> str:
            text = model.complete(about(name), seed=0, budget=EpisodeBudget(SpendingAccount())).text
            finished.append(name)
            return text

        long = threads.submit(ask, "long")
        wait_for(lambda: sampler.most_at_once == 1)
        short, refused = threads.submit(ask, "short"), threads.submit(ask, "unknown")
        with pytest.raises(SamplerError, match="unknown is refused"):
            refused.result(10)
        wait_for(lambda: sampler.most_at_once == 2)
        sampler.may_go_on.set()
        assert (short.result(10), long.result(10)) == ("s", "l" * 50_000)
        assert finished == ["short", "long"]
        with pytest.raises(SamplerError, match="out of memory"):
            ask("fatal")
