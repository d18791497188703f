"""A model behind an OpenAI-compatible chat endpoint: one call with its retries, its time limit and what it used.

Leaves out prompts and what becomes of an answer.
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from srl_swe.errors import ConfigError, EndpointError, EndpointRefusedError, EpisodeOverError, MissingExtraError
from srl_swe.evaluation.chat_models import ChatAnswer
from srl_swe.evaluation.spending import Charge, EpisodeBudget, Usage
from srl_swe.types import Message

_BUSY = {408, 409, 425, 429}
_REFUSED = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}
_UNFINISHED = {"abort", "error"}
"""What servers call an answer that they gave up themselves."""
_CONTEXT = re.compile(r"context.{0,10}length|context window|maximum context|max_model_len|prompt is too long", re.I)
_TEMPLATE_TOKENS = 64
"""More than any chat template adds to a message."""
_MAX_ANSWER_BYTES = 64 << 20
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointConfig:
    """How an endpoint is asked, and what it may cost."""

    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the endpoint's key; it may be unset. The key is never written anywhere."""
    request_timeout_s: float = 600.0
    """Longest that one call may take, from connecting to its last byte."""
    request_attempts: int = 6
    """How often a call is made before its failure makes the episode invalid; waits between grow from 1 to 60 s."""
    price_in: float = 0.0
    """Price of a million prompt tokens."""
    price_out: float = 0.0
    """Price of a million completion tokens."""
    max_cost: float | None = None
    """Money that the whole evaluation may cost, all its runs together; needs the prices. A call that could exceed it
    is not made, and instances left without a prediction go on when the same command is run with more."""
    max_episode_cost: float | None = None
    """Money that an episode may cost; at the limit its work tree is its prediction."""

    def __post_init__(self) -> None:
        if self.request_timeout_s <= 0:
            raise ConfigError(f"request_timeout_s must be above 0 seconds, not {self.request_timeout_s}")
        if self.request_attempts < 1:
            raise ConfigError(f"request_attempts must be at least 1, not {self.request_attempts}")
        for name in ("price_in", "price_out"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("max_cost", "max_episode_cost"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ConfigError(f"{name} must be above 0, not {limit}")
            if limit is not None and not (self.price_in or self.price_out):
                raise ConfigError(f"{name} = {limit} cannot hold without prices: give --price-in and --price-out")


class _RetryableError(EndpointError):
    """The call may succeed when it is made again."""

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Endpoint:
    """A model at an endpoint. Safe for threads."""

    def __init__(
        self, url: str, model: str, config: EndpointConfig, *, max_completion_tokens: int, temperature: float
    ) -> None:
        """`url` as OpenAI's clients take it, without /chat/completions.

        Raises:
            ConfigError: it is no http or https address.
            MissingExtraError: httpx is not installed.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint = {url!r}: expected http://HOST:PORT/v1 or https://…")
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("--endpoint needs the extra [eval]: pip install 'srl-swe[eval]'") from error
        self._url = f"{url.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
        self._model = model
        self._config = config
        self._max_completion_tokens = max_completion_tokens
        self._temperature = temperature
        self._limit_field = "max_tokens"
        self._has_answered = False
        self._certificates = httpx.create_ssl_context()
        key = os.environ.get(config.api_key_variable)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def complete(self, messages: Sequence[Message], *, seed: int, budget: EpisodeBudget) -> ChatAnswer:
        """Return the answer to the messages; every try that may have been billed is charged.

        Raises:
            EpisodeOverError: the prompt does not fit into the context, or the budget does not allow the call.
            SpendingLimitError: the whole evaluation's money does not allow the call.
            EndpointRefusedError: key, model or address are refused, or the endpoint has never answered yet.
            EndpointError: it failed, also after retries.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_RetryableError),
            stop=stop_after_attempt(self._config.request_attempts),
            wait=_wait_s,
            reraise=True,
        )

        def ask() -> ChatAnswer:
            try:
                answer = self._try(messages, seed, budget)
            except _RetryableError as error:
                budget.unanswered = str(error)
                raise
            budget.unanswered = ""
            return answer

        try:
            return retrying(ask)
        except _RetryableError as error:
            message = f"{error} ({self._config.request_attempts} attempts)"
            if self._has_answered:
                raise EndpointError(message) from error
            raise EndpointRefusedError(f"{message}. Nothing at this endpoint has answered yet: check it") from error

    def _try(self, messages: Sequence[Message], seed: int, budget: EpisodeBudget) -> ChatAnswer:
        body: dict[str, Any] = {
            "model": self._model,
            # Half of a surrogate pair, which a model may have written, is no JSON text.
            "messages": [{key: _utf8(value) for key, value in message.items()} for message in messages],
            "temperature": self._temperature,
            self._limit_field: self._max_completion_tokens,
        }
        if self._temperature > 0:
            body["seed"] = seed % 2**31
        # A token is a byte or more. The most is charged until it is known better.
        prompt_bytes = sum(len(message["content"].encode()) for message in body["messages"])
        most = self._usage(prompt_bytes + _TEMPLATE_TOKENS * (len(messages) + 1), self._max_completion_tokens)
        with budget.reserve(most) as charge:
            status, headers, content = self._post(body, charge)
            if status != 200:
                charge.usage = Usage()
                self._raise_for(status, headers, content)
            answer, used = self._read(content)
            self._has_answered = True
            if used is not None:
                charge.usage = self._usage(*used)
        return answer

    def _post(self, body: Mapping[str, Any], charge: Charge) -> tuple[int, Mapping[str, str], bytes]:
        import httpx

        async def post() -> tuple[int, Mapping[str, str], bytes]:
            async with (
                asyncio.timeout(self._config.request_timeout_s),
                httpx.AsyncClient(verify=self._certificates, timeout=None) as client,
                client.stream("POST", self._url, json=body, headers=self._headers) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_ANSWER_BYTES:
                        raise _RetryableError(f"{self._url}: the answer is longer than {_MAX_ANSWER_BYTES} bytes")
                return response.status_code, response.headers, bytes(content)

        try:
            return asyncio.run(post())
        except TimeoutError as error:
            raise _RetryableError(f"{self._url}: no answer within {self._config.request_timeout_s:g} s") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            charge.usage = Usage()
            raise EndpointRefusedError(f"{self._url}: no address of an endpoint: {error}") from error
        except httpx.ConnectError as error:
            charge.usage = Usage()
            raise _RetryableError(f"{self._url}: no connection: {error}") from error
        except httpx.RequestError as error:
            raise _RetryableError(f"{self._url}: {type(error).__name__}: {error}") from error

    def _raise_for(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        said = content.decode(errors="replace").strip()[:500]
        message = f"{self._url}: HTTP {status}: {said}"
        if "insufficient_quota" in said or status in _REFUSED:
            raise EndpointRefusedError(
                f"{message}. Check --endpoint, --model {self._model} and the key in ${self._config.api_key_variable}"
            )
        if status in _BUSY or status >= 500:
            raise _RetryableError(message, wait_s=_retry_after_s(headers))
        if _CONTEXT.search(said):
            raise EpisodeOverError("context", message)
        if "max_completion_tokens" in said and self._limit_field == "max_tokens":
            self._limit_field = "max_completion_tokens"
            raise _RetryableError(message, wait_s=0.0)
        raise EndpointError(message)

    def _read(self, content: bytes) -> tuple[ChatAnswer, tuple[int, int] | None]:
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            message = choice["message"]
            text, thought = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning")
            finish = choice.get("finish_reason")
            if finish in _UNFINISHED:
                raise ValueError(f"finish_reason is {finish!r}")
            usage = answer.get("usage")
            if not isinstance(text, str):
                raise TypeError(f"content is a {type(text).__name__}")
            used = (int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None
            if used and min(used) < 0:
                raise ValueError(f"usage is {used}")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            said = content[:200].decode(errors="replace")
            raise _RetryableError(f"{self._url}: expected a chat completion, found {said!r} ({error})") from error
        if isinstance(thought, str) and thought.strip() and "<think>" not in text:
            # Endpoints that take the thought out of the answer get it back into the form of our prompts.
            text = f"<think>\n{thought.strip()}\n</think>\n{text}"
        return ChatAnswer(text=text, cut_off=finish == "length"), used

    def _usage(self, prompt_tokens: int, completion_tokens: int) -> Usage:
        cost = (prompt_tokens * self._config.price_in + completion_tokens * self._config.price_out) / 1e6
        return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost=cost)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _wait_s(state: RetryCallState) -> float:
    """Wait as long as the endpoint asks for, at most 60 s, else exponentially longer."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait_s if isinstance(error, _RetryableError) else None
    if asked is not None:
        return min(max(asked, 0.0), _LONGEST_WAIT_S)
    return float(wait_exponential_jitter(initial=1.0, max=_LONGEST_WAIT_S)(state))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return what a Retry-After header says (RFC 9110, section 10.2.3): seconds or a date."""
    value = headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time()
    except ValueError:
        return None
