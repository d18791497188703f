"""Calls of an endpoint over real HTTP: what is retried, what is refused, what is charged, and when a call ends."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from srl_swe.errors import (
    ConfigError,
    DataError,
    EndpointError,
    EndpointRefusedError,
    EpisodeOverError,
    SpendingLimitError,
)
from srl_swe.evaluation.endpoint import Endpoint, EndpointConfig
from srl_swe.evaluation.spending import EpisodeBudget, SpendingAccount, Usage
from srl_swe.types import Message
from tests.evaluation.chat_server import Reply, chat_server, says

MESSAGES: list[Message] = [{"role": "system", "content": "s" * 36}, {"role": "user", "content": "é" * 200}]
BOUND = 36 + 400 + 3 * 64
"""Bytes of the messages and what a template may add."""


def ask(url: str, budget: EpisodeBudget | None = None, *, temperature: float = 0.0, **options: Any) -> str:
    config = EndpointConfig(**{"request_attempts": 3, "request_timeout_s": 10.0, **options})
    endpoint = Endpoint(url, "m", config, max_completion_tokens=50, temperature=temperature)
    budget = budget or EpisodeBudget(SpendingAccount())
    return endpoint.complete(MESSAGES, seed=7, budget=budget).text


def test_a_call_and_what_it_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    budget = EpisodeBudget(SpendingAccount())
    with chat_server(lambda body, number: says("hello", usage=(300, 20))) as server:
        assert ask(server.url, budget, api_key_variable="MY_KEY", price_in=1.0, price_out=10.0) == "hello"
        assert ask(server.url + "/", temperature=0.5, api_key_variable="UNSET_KEY") == "hello"
    first, second = server.asked
    assert first["path"] == second["path"] == "/v1/chat/completions"
    assert (first["authorization"], second["authorization"]) == ("Bearer secret", None)
    assert (first["model"], first["max_tokens"], first["temperature"], first["messages"]) == ("m", 50, 0.0, MESSAGES)
    assert "seed" not in first
    assert second["seed"] == 7
    # 300 tokens at 1 and 20 at 10 a million.
    assert budget.used == Usage(prompt_tokens=300, completion_tokens=20, cost=pytest.approx(0.0005))


@pytest.mark.parametrize("status", [408, 429, 503])
def test_busy_endpoints_are_asked_again_as_they_say(status: int) -> None:
    busy = Reply(content=b"busy", status=status, headers={"Retry-After": "0"})
    budget = EpisodeBudget(SpendingAccount())
    with chat_server(lambda body, number: busy if number < 2 else says("now")) as server:
        assert ask(server.url, budget) == "now"
    assert len(server.asked) == 3
    assert budget.used.tokens == 110  # the busy calls cost nothing
    with (
        chat_server(lambda body, number: busy) as server,
        pytest.raises(EndpointRefusedError, match=rf"HTTP {status}: busy \(3 attempts\). Nothing at this endpoint has"),
    ):
        ask(server.url)
    assert len(server.asked) == 3


def test_retry_after_is_waited_for() -> None:
    busy = Reply(content=b"", status=429, headers={"Retry-After": "1"})
    started = time.monotonic()
    with chat_server(lambda body, number: busy if number < 1 else says("now")) as server:
        ask(server.url)
    assert 1.0 <= time.monotonic() - started < 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"error": {"message": "overloaded"}}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b"\xff\xfe",
        says("half", finish="abort").content,
        says("x", usage=(-1, 5)).content,
    ],
)
def test_garbage_is_the_endpoints_failure(content: bytes) -> None:
    budget = EpisodeBudget(SpendingAccount())
    with (
        chat_server(lambda body, number: Reply(content=content)) as server,
        pytest.raises(EndpointRefusedError, match="expected a chat completion"),
    ):
        ask(server.url, budget, request_attempts=1)
    # What garbage cost is not known: the most that it can have been is charged.
    assert budget.used == Usage(prompt_tokens=BOUND, completion_tokens=50)


@pytest.mark.parametrize("status", [301, 401])
def test_refusals_end_everything_at_once(status: int) -> None:
    with (
        chat_server(lambda body, number: Reply(content=b"no", status=status)) as server,
        pytest.raises(EndpointRefusedError, match=f"HTTP {status}: no. Check --endpoint, --model m and the key"),
    ):
        ask(server.url)
    assert len(server.asked) == 1


def test_an_endpoint_that_has_answered_fails_call_by_call() -> None:
    replies = [says("x"), Reply(content=b"<html>"), Reply(content=b"down", status=502), says("y")]
    config = EndpointConfig(request_attempts=1)
    budget = EpisodeBudget(SpendingAccount())
    with chat_server(lambda body, number: replies[number]) as server:
        endpoint = Endpoint(server.url, "m", config, max_completion_tokens=50, temperature=0.0)
        assert endpoint.complete(MESSAGES, seed=0, budget=budget).text == "x"
        for said in ("<html>", "HTTP 502: down"):
            with pytest.raises(EndpointError, match=said):
                endpoint.complete(MESSAGES, seed=0, budget=budget)
        assert endpoint.complete(MESSAGES, seed=0, budget=budget).text == "y"


def test_other_errors_are_not_repeated() -> None:
    with (
        chat_server(lambda body, number: Reply(content=b"bad field", status=422)) as server,
        pytest.raises(EndpointError, match="422: bad field"),
    ):
        ask(server.url)
    assert len(server.asked) == 1


def test_a_prompt_that_is_too_long_ends_the_episode() -> None:
    said = b'{"error": {"message": "This model\'s maximum context length is 4096 tokens", "code": 400}}'
    with (
        chat_server(lambda body, number: Reply(content=said, status=400)) as server,
        pytest.raises(EpisodeOverError) as caught,
    ):
        ask(server.url)
    assert caught.value.exit_status == "context"


def test_models_that_name_the_limit_otherwise() -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in body:
            said = b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return Reply(content=said, status=400)
        return says(str(body["max_completion_tokens"]))

    with chat_server(reply) as server:
        assert ask(server.url) == "50"


@pytest.mark.parametrize("drip", [False, True])
def test_the_time_limit_holds_also_against_an_answer_that_comes_byte_by_byte(drip: bool) -> None:
    slow = Reply(content=says("late").content, wait_s=0.2 if drip else 30.0, drip=drip)
    budget = EpisodeBudget(SpendingAccount())
    started = time.monotonic()
    with (
        chat_server(lambda body, number: slow) as server,
        pytest.raises(EndpointRefusedError, match="no answer within 1 s"),
    ):
        ask(server.url, budget, request_timeout_s=1.0, request_attempts=1)
    assert 1.0 <= time.monotonic() - started < 3.0
    assert budget.used.tokens == BOUND + 50


def test_no_server_costs_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    budget = EpisodeBudget(SpendingAccount())
    with pytest.raises(EndpointRefusedError, match="no connection"):
        ask(url, budget, request_attempts=1)
    assert budget.used == Usage()


def test_what_an_answer_says() -> None:
    replies = [
        says("do", reasoning_content="I know.\n"),
        says(None, finish="length"),
        says("<think>\nown\n</think>\ndo", reasoning="other"),
        says("no usage", usage=None),
    ]
    budget = EpisodeBudget(SpendingAccount())
    with chat_server(lambda body, number: replies[number]) as server:
        assert ask(server.url, budget) == "<think>\nI know.\n</think>\ndo"
        assert ask(server.url, budget) == ""
        assert ask(server.url, budget) == "<think>\nown\n</think>\ndo"
        assert budget.used.tokens == 330
        ask(server.url, budget)
    assert budget.used.tokens == 330 + BOUND + 50


def test_half_a_surrogate_pair_is_no_failure() -> None:
    endpoint_config = EndpointConfig(request_attempts=1)
    messages = [{"role": "user", "content": "a\ud800b"}]
    with chat_server(lambda body, number: says("x\udfffy")) as server:
        endpoint = Endpoint(server.url, "m", endpoint_config, max_completion_tokens=50, temperature=0.0)
        answer = endpoint.complete(messages, seed=0, budget=EpisodeBudget(SpendingAccount()))
    assert answer.text == "x\udfffy"
    assert server.asked[0]["messages"] == [{"role": "user", "content": "a?b"}]


def test_an_episodes_limits() -> None:
    account = SpendingAccount()
    with chat_server(lambda body, number: says("x", usage=(100, 10))) as server:
        budget = EpisodeBudget(account, max_tokens=BOUND + 50 + 110)
        ask(server.url, budget)
        ask(server.url, budget)
        with pytest.raises(EpisodeOverError) as caught:
            ask(server.url, budget)
        assert caught.value.exit_status == "token_limit"
        prices = {"price_in": 0.0, "price_out": 1e6}
        budget = EpisodeBudget(account, max_cost=60.0)
        ask(server.url, budget, **prices)
        ask(server.url, budget, **prices)
        with pytest.raises(EpisodeOverError) as caught:
            ask(server.url, budget, **prices)
        assert caught.value.exit_status == "cost_limit"
    assert (len(server.asked), account.spent.cost) == (4, 20.0)


def test_money_is_never_exceeded_by_calls_at_once(tmp_path: Path) -> None:
    """Each call may cost 50 and costs 10, of 100: never more than two at once, and none when less than 50 are left."""
    path = tmp_path / "spending.jsonl"
    account = SpendingAccount(path, max_cost=100.0)
    running: list[int] = []
    most: list[int] = []

    def reply(body: dict[str, Any], number: int) -> Reply:
        running.append(number)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(number)
        return says("x", usage=(100, 10))

    refused: list[Exception] = []

    def call(url: str) -> None:
        try:
            ask(url, EpisodeBudget(account), price_out=1e6)
        except SpendingLimitError as error:
            refused.append(error)

    with chat_server(reply) as server:
        threads = [threading.Thread(target=call, args=(server.url,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    # 0, 10, … 50 spent leave 50 for one more call, 60 do not.
    assert (len(server.asked), len(refused), account.spent.cost) == (6, 4, 60.0)
    assert max(most) <= 2
    assert "raise --max-cost" in str(refused[0])
    assert SpendingAccount(path).spent == account.spent


def test_a_killed_run_has_spent_the_most(tmp_path: Path) -> None:
    path = tmp_path / "spending.jsonl"
    done = {"call": "a", "prompt_tokens": 3, "completion_tokens": 2, "cost": 1.0}
    begun = {"call": "b", "prompt_tokens": 9, "completion_tokens": 9, "cost": 5.0}
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in ({**done, "cost": 5.0}, begun, done)) + '{"call": "c", '
    )
    assert SpendingAccount(path).spent == Usage(prompt_tokens=12, completion_tokens=11, cost=6.0)
    path.write_text('{"no": 1}\n')
    with pytest.raises(DataError, match="line 1: expected what a call"):
        SpendingAccount(path)


def test_config_ranges() -> None:
    with pytest.raises(ConfigError, match="cannot hold without prices"):
        EndpointConfig(max_cost=1.0)
    for options in ({"request_timeout_s": 0}, {"request_attempts": 0}, {"price_in": -1}, {"max_cost": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            EndpointConfig(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected http://HOST:PORT/v1"):
        ask("localhost:8000")
