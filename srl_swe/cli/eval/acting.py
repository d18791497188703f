"""Who acts in an evaluation: a model in this process, one behind an endpoint, or a Python class, as the options say."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from srl_swe.evaluation.acting import InstanceAgent
from srl_swe.evaluation.agent_class import load_agent_class
from srl_swe.evaluation.agent_config import AgentConfig, AgentOutcome
from srl_swe.evaluation.batching import BatchedModel
from srl_swe.evaluation.chat_agent import ChatAgent
from srl_swe.evaluation.chat_models import ChatModel
from srl_swe.evaluation.endpoint import Endpoint
from srl_swe.evaluation.fleet import Fleet
from srl_swe.evaluation.grading_ahead import GradingAhead
from srl_swe.evaluation.independent import IndependentEpisodes
from srl_swe.evaluation.scaffolds import Agentless, OracleEdit, gold_paths
from srl_swe.evaluation.spending import SPENDING_FILE, SpendingAccount
from srl_swe.prompts import PromptLimits
from srl_swe.types import Instance

if TYPE_CHECKING:
    from srl_swe.cli.eval.evaluate import EvalConfig
    from srl_swe.training.policy import Policy
    from srl_swe.training.samplers import Sampler


class Act(Protocol):
    """Plays the episodes of all instances."""

    def __call__(
        self, folder: Path, number: int, ahead: GradingAhead | None = None, fleet: Fleet | None = None
    ) -> AgentOutcome:
        """Return what the agent left behind. `number` of the sample from 0; `ahead` brings images and grades.

        Episodes are spread over a `fleet`; without one they are at the engine of this machine.
        """


ENGINE_FOLDER = "engine"
_SEEDS_OF_A_SAMPLE = 1_000_000


@contextmanager
def opened_agent(config: "EvalConfig", instances: Sequence[Instance], output: Path, console: Console) -> Iterator[Act]:
    """Return what acts on the instances; its model is there until the end of the block.

    Raises:
        ConfigError, ModelError, MissingExtraError: it cannot act with these options.
    """
    with ExitStack() as stack:
        if config.agent_class is not None:
            found = load_agent_class(config.agent_class)
            yield _independent(config, instances, console, SpendingAccount(), config.agent_class, lambda _: found)
        elif config.endpoint is not None:
            assert config.model is not None
            endpoint = Endpoint(
                config.endpoint,
                config.model,
                config.asking,
                max_completion_tokens=config.agent.max_completion_tokens,
                temperature=config.agent.temperature,
            )
            account = SpendingAccount(output / SPENDING_FILE, max_cost=config.asking.max_cost)
            act = _independent(config, instances, console, account, config.model, _asking(config, endpoint, instances))
            yield act
            used = account.spent
            said = f"used in all runs: {used.prompt_tokens} prompt and {used.completion_tokens} completion tokens"
            console.print(f"{said}, cost {used.cost:.4f}" if used.cost else said, markup=False)
        else:
            policy, sampler = _open_model(config, output, stack)
            assert config.model is not None
            model = stack.enter_context(
                BatchedModel(
                    sampler,
                    policy.encode_prompt,
                    max_context=_max_context(config, policy),
                    max_completion_tokens=config.agent.max_completion_tokens,
                    temperature=config.agent.temperature,
                    max_waiting=config.agent.max_parallel,
                )
            )
            yield _independent(
                config, instances, console, SpendingAccount(), config.model, _asking(config, model, instances)
            )


def _independent(
    config: "EvalConfig",
    instances: Sequence[Instance],
    console: Console,
    account: SpendingAccount,
    model_name: str,
    agent_of: Callable[[AgentConfig], Callable[[], InstanceAgent]],
) -> Act:
    described: dict[str, Any] = {"class": config.agent_class}
    if config.model is not None:
        described = {"scaffold": config.scaffold, "limits": asdict(_limits(config))}

    def act(folder: Path, number: int, ahead: GradingAhead | None = None, fleet: Fleet | None = None) -> AgentOutcome:
        agent_config = _of_sample(config.agent, number)
        episodes = IndependentEpisodes(
            agent_of(agent_config),
            model_name=model_name,
            config=agent_config,
            account=account,
            max_episode_cost=config.asking.max_episode_cost,
            described=described,
            fleet=fleet,
        )
        return episodes.run(instances, folder, console=console, ahead=ahead)

    return act


def _asking(
    config: "EvalConfig", model: ChatModel, instances: Sequence[Instance]
) -> Callable[[AgentConfig], Callable[[], InstanceAgent]]:
    limits = _limits(config)
    paths = gold_paths(instances) if config.scaffold == "oracle-edit" else {}

    def agent_of(agent: AgentConfig) -> Callable[[], InstanceAgent]:
        if config.scaffold == "oracle-edit":
            return lambda: OracleEdit(model, paths, seed=agent.seed)
        if config.scaffold == "agentless":
            return lambda: Agentless(model, num_files=config.num_files, seed=agent.seed)
        return lambda: ChatAgent(model, agent, limits)

    return agent_of


def _open_model(config: "EvalConfig", output: Path, stack: ExitStack) -> "tuple[Policy, Sampler]":
    import torch

    from srl_swe.training.policy import Policy
    from srl_swe.training.transformers_sampler import TransformersSampler
    from srl_swe.training.vllm_sampler import VLLMSampler

    assert config.model is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = Policy.from_pretrained(config.model, compute_dtype=getattr(torch, config.dtype), device=device)
    if config.sampler == "transformers":
        return policy, TransformersSampler(policy, cached_tokens=config.cached_tokens, concurrent_rollouts=64)
    output.mkdir(parents=True, exist_ok=True)
    engine = VLLMSampler(
        policy,
        folder=output / ENGINE_FOLDER,
        max_row_tokens=_max_context(config, policy),
        cached_tokens=config.cached_tokens,
        concurrent_rollouts=max(64, config.agent.max_parallel),
    )
    return policy, stack.enter_context(engine)


def _max_context(config: "EvalConfig", policy: "Policy") -> int:
    """A row must fit into vLLM's cache."""
    return min(policy.max_context, config.cached_tokens) if config.sampler == "vllm" else policy.max_context


def _limits(config: "EvalConfig") -> PromptLimits:
    from srl_swe.software_engineering import trained_limits

    return trained_limits(
        Path(str(config.model)), history=config.history, max_observation_chars=config.max_observation_chars
    )


def _of_sample(config: AgentConfig, number: int) -> AgentConfig:
    return replace(config, seed=config.seed + number * _SEEDS_OF_A_SAMPLE)
