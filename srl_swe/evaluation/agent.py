"""The agent under test: a model in this process that acts on many instances at once, each at its own pace.

Prompts are left to `srl_swe.prompts`, the conversation to `chat_agent`, containers to `independent`, verdicts to
`scheduler`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from srl_swe.evaluation.agent_config import AgentConfig, AgentOutcome
from srl_swe.evaluation.batching import BatchedModel
from srl_swe.evaluation.chat_agent import ChatAgent
from srl_swe.evaluation.independent import IndependentEpisodes
from srl_swe.evaluation.spending import SpendingAccount
from srl_swe.prompts import PromptLimits
from srl_swe.types import Instance, Message

if TYPE_CHECKING:
    from srl_swe.training.samplers import Sampler


class Agent:
    """A model with the way it is prompted."""

    def __init__(
        self,
        sampler: "Sampler",
        encode_prompt: Callable[[list[Message]], list[int]],
        *,
        max_context: int,
        model_name: str,
        config: AgentConfig,
        limits: PromptLimits = PromptLimits(),
    ) -> None:
        """`max_context` in tokens, prompt and completion together; `model_name` goes into the predictions.

        `limits` say how much of a context the prompts show: the same as in training.
        """
        self._sampler = sampler
        self._encode_prompt = encode_prompt
        self._max_context = max_context
        self._model_name = model_name
        self._config = config
        self._limits = limits

    def run(self, instances: Sequence[Instance], output: Path, *, console: Console | None = None) -> AgentOutcome:
        """Act on every instance that `output` has no prediction for; each episode is on disk when it ends.

        Raises:
            SamplerError: the sampling engine failed; finished episodes are kept.
            EngineUnavailableError: the container engine stopped answering; finished episodes are kept.
            ConfigError: `output` holds predictions of another model, or completions leave no room for prompts.
        """
        model = BatchedModel(
            self._sampler,
            self._encode_prompt,
            max_context=self._max_context,
            max_completion_tokens=self._config.max_completion_tokens,
            temperature=self._config.temperature,
            max_waiting=self._config.max_parallel,
        )
        with model:
            episodes = IndependentEpisodes(
                lambda: ChatAgent(model, self._config, self._limits),
                model_name=self._model_name,
                config=self._config,
                account=SpendingAccount(),
                described={"limits": asdict(self._limits)},
            )
            return episodes.run(instances, output, console=console)
