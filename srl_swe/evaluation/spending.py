"""What calls of a model may use in tokens and money, held by reserving the most that a call can use before it is made.

Leaves out what a call is (`endpoint`, `batching`) and the limits on steps and seconds (`acting`).
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from srl_swe.errors import DataError, EpisodeOverError, SpendingLimitError
from srl_swe.files import append_json_line, repair_last_line

SPENDING_FILE = "spending.jsonl"
_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What calls used, or the most that one can use."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """In the currency of the prices."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost=self.cost + other.cost,
        )

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(kw_only=True, slots=True)
class Charge:
    """What one call is charged. Until `usage` is set to what it used, that is the most that it can have used."""

    usage: Usage


class SpendingAccount:
    """The money of a whole evaluation, over all its runs: what was spent stands in a file. Safe for threads."""

    def __init__(self, path: Path | None = None, *, max_cost: float | None = None) -> None:
        """Read what earlier runs spent from `path`, where there is something; None = nothing is kept.

        A call that an earlier run had begun when it was killed counts with the most that it can have cost.

        Raises:
            DataError: the file is damaged.
        """
        self._path = path
        self._max_cost = max_cost
        self._spent = _read(path) if path is not None else Usage()
        self._reserved = 0.0
        self._changed = threading.Condition()

    @property
    def spent(self) -> Usage:
        """What the calls that have ended used, those of earlier runs included."""
        return self._spent

    @contextmanager
    def reserve(self, most: Usage, *, still_wanted: Callable[[], object] = lambda: None) -> Iterator[Charge]:
        """Set the most that a call can cost aside while it is made; wait for other calls where they may leave it.

        `still_wanted` raises where the call is not to be made any more.

        Raises:
            SpendingLimitError: it could cost more than is left.
        """
        call = uuid.uuid4().hex
        with self._changed:
            while self._max_cost is not None and self._spent.cost + self._reserved + most.cost > self._max_cost:
                if not self._reserved:
                    raise SpendingLimitError(
                        f"{self._spent.cost:.4f} of the {self._max_cost} that this evaluation may cost are spent, and "
                        f"the next call could cost {most.cost:.4f}: raise --max-cost and run the same command again"
                    )
                self._changed.wait(_LOOK_S)
                still_wanted()
            still_wanted()
            self._note(call, most)
            self._reserved += most.cost
        charge = Charge(usage=most)
        try:
            yield charge
        finally:
            with self._changed:
                self._reserved = max(0.0, self._reserved - most.cost)
                self._spent += charge.usage
                self._note(call, charge.usage)
                self._changed.notify_all()

    def _note(self, call: str, usage: Usage) -> None:
        if self._path is not None:
            append_json_line(self._path, {"call": call, **asdict(usage)})


class EpisodeBudget:
    """What one episode may use of an account. One call at a time."""

    def __init__(
        self, account: SpendingAccount, *, max_tokens: int | None = None, max_cost: float | None = None
    ) -> None:
        """`max_tokens` counts prompts and completions; None = no limit of its own."""
        self._account = account
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self._closed = False
        self.used = Usage()
        """What its calls used so far."""
        self.unanswered = ""
        """How the last attempt of a call failed; empty where it was answered."""

    @contextmanager
    def reserve(self, most: Usage) -> Iterator[Charge]:
        """Set the most that a call can use aside while it is made.

        Raises:
            EpisodeOverError: it could use more than the episode may, or the episode is over.
            SpendingLimitError: it could cost more than is left of the whole evaluation's money.
        """
        planned = self.used + most
        if self._max_tokens is not None and planned.tokens > self._max_tokens:
            raise EpisodeOverError(
                "token_limit", f"the next call could bring the episode to {planned.tokens} of {self._max_tokens} tokens"
            )
        if self._max_cost is not None and planned.cost > self._max_cost:
            raise EpisodeOverError(
                "cost_limit", f"the next call could bring the episode to {planned.cost:.4f} of {self._max_cost}"
            )
        with self._account.reserve(most, still_wanted=self._require_open) as charge:
            try:
                yield charge
            finally:
                self.used += charge.usage

    def close(self) -> None:
        """Allow no more calls; idempotent."""
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise EpisodeOverError("closed", "the episode is over")


def _read(path: Path) -> Usage:
    repair_last_line(path)
    if not path.is_file():
        return Usage()
    calls: dict[str, Usage] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            call = record.pop("call")
            calls[call] = Usage(**record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: expected what a call of the model cost: {error}") from error
    return sum(calls.values(), Usage())
