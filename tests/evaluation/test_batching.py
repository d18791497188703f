"""A sampler behind chat messages: what waits is one batch, and every failure reaches who asked."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from srl_swe.errors import EpisodeOverError, SamplerError
from srl_swe.evaluation.batching import BatchedModel
from srl_swe.evaluation.spending import EpisodeBudget, SpendingAccount, Usage
from srl_swe.types import Message
from tests.evaluation.scripted import ScriptedSampler, encode


def about(name: str) -> list[Message]:
    return [{"role": "user", "content": f"<issue>\n{name}\n</issue>"}]


def batched(sampler: ScriptedSampler, *, max_context: int = 1000) -> BatchedModel:
    return BatchedModel(sampler, encode, max_context=max_context, max_completion_tokens=100, temperature=0.0)


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
