"""Where a tiny policy can act for real: instances that one command of letters repairs, on an image made from the base
image, and a tokenizer whose text does not say which tokens were sampled.

As a program it trains there: `python -m tests.training.episode_world MODEL OUTPUT [JSON]`; the JSON holds options.
"""

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import BASE_IMAGE
from srl_swe.software_engineering import acting_in_containers, episode_starts
from srl_swe.training.config import TrainConfig
from srl_swe.training.domain import Acting, Domain
from srl_swe.training.episode_config import EpisodeConfig
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion, mix_seed
from srl_swe.training.termination import Termination
from srl_swe.training.trainer import TrainResult, train
from srl_swe.types import HistoryPair, Instance, InstanceEnvironment, InstanceTests, Message, StepExample

from .run_tiny import tiny_config
from .tiny import DOMAIN, LETTERS, TEMPLATE, make_model

IMAGE = "srl-swe/test-episodes:1"
DOCKERFILE = f"""\
FROM {BASE_IMAGE}
RUN mkdir /testbed && cd /testbed && echo broken > state && git init -q && git add -A \
 && git -c user.name=t -c user.email=t@t commit -qm base \
 && printf '#!/bin/sh\\necho fixed > /testbed/state\\necho done\\n' > /usr/local/bin/fix && chmod +x /usr/local/bin/fix
WORKDIR /testbed
"""
SCRIPT = """\
cd /testbed
echo '>>>>> Start Test Output'
[ "$(cat state)" = fixed ] && echo 'PASSED test_state' || echo 'FAILED test_state'
echo 'PASSED test_other'
echo '>>>>> End Test Output'
"""
INSTANCE = Instance(
    instance_id="letters-a",
    repo="tiny/letters",
    base_commit="",
    problem_statement="say a",
    environment=InstanceEnvironment(image=IMAGE),
    tests=InstanceTests(
        script=SCRIPT,
        parser="parse_log_pytest",
        fail_to_pass=("test_state",),
        pass_to_pass=("test_other",),
        timeout_s=30.0,
    ),
    gold_patch="",
)

FIX_TOKEN = "fix"
"""One token that the tokenizer never writes: it encodes the same text letter by letter."""


def letter_instances(letters: str) -> tuple[Instance, ...]:
    return tuple(
        replace(INSTANCE, instance_id=f"letters-{letter}", problem_statement=f"say {letter}") for letter in letters
    )


def build_image(engine: Engine) -> None:
    assert isinstance(engine, DockerEngine)
    engine.client.images.build(fileobj=io.BytesIO(DOCKERFILE.encode()), tag=IMAGE, rm=True)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and FIX_TOKEN."""
    vocabulary = {token: i for i, token in enumerate([*LETTERS, " ", "\n", "|", FIX_TOKEN, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )


def write_acting_model(folder: Path) -> Path:
    """Write a loadable model folder."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(vocab_size=len(tokenizer))
    model.config.eos_token_id = tokenizer.eos_token_id  # type: ignore[union-attr,assignment]
    model.generation_config.eos_token_id = tokenizer.eos_token_id  # type: ignore[union-attr]
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return folder


def render(example: StepExample) -> list[Message]:
    """Show the problem and what was done, observations included."""
    shown = "".join(f" {pair.action} {pair.observation.strip()}" for pair in example.history)
    return [{"role": "user", "content": example.problem_statement + shown}]


ACTING_DOMAIN = replace(DOMAIN, render=render)


def acting_config(model: Path, output: Path, **changes: object) -> TrainConfig:
    """One group of four episodes an iteration."""
    limits: dict[str, object] = {"max_steps": 3, "max_malformed": 2, "command_timeout_s": 20.0, "max_parallel": 4}
    limits |= {name: changes.pop(name) for name in list(changes) if name in EpisodeConfig.__dataclass_fields__}
    episodes = EpisodeConfig(**limits)  # type: ignore[arg-type]
    options: dict[str, object] = {
        "prompts_per_iteration": 1,
        "num_iterations": 2,
        "learning_rate": 2e-3,
        "max_refills": 0,
        "max_oversampling": 1.0,
        "max_prompt_tokens": 160,
        "tokens_per_pack": 200,
        "validate_every": 10,
        "checkpoint_every": None,
        "updates_per_iteration": 1,
        "episodes": episodes,
    }
    return tiny_config(model, output, "rlvr", **(options | changes))


def acting(engine: Engine, config: TrainConfig, letters: str = "ab") -> Acting:
    return acting_in_containers(letter_instances(letters), engine, config.episodes)


def expert_steps(letters: str) -> list[StepExample]:
    """Step examples of two experts: one repairs and then submits, the other submits at once."""
    repaired = (HistoryPair(action="fix", observation="done"),)
    steps: tuple[tuple[tuple[HistoryPair, ...], str], ...] = (((), "fix"), ((), "submit"), (repaired, "submit"))
    return [
        replace(start, example_id=f"{start.example_id}-{n}", history=history, expert_thought="h", expert_action=action)
        for start in episode_starts(letter_instances(letters))
        for n, (history, action) in enumerate(steps)
    ]


def warm_up(model: Path, output: Path) -> Path:
    """Teach a model to act as either expert, and return its folder."""
    config = tiny_config(
        model,
        output,
        "sft",
        num_iterations=40,
        prompts_per_iteration=6,
        max_prompt_tokens=160,
        tokens_per_pack=300,
        updates_per_iteration=1,
        checkpoint_every=40,
    )
    return train(config, expert_steps("ab"), [], ACTING_DOMAIN).last_model


class ScriptedTokens:
    """Samples what a script says, as token ids: the answers of each episode by the episode's seed."""

    def __init__(
        self,
        policy: Policy,
        scripts: Mapping[int, Sequence[Sequence[int]]],
        before_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._answers = {
            mix_seed(seed, number): tuple(ids) for seed, script in scripts.items() for number, ids in enumerate(script)
        }
        self._before_batch = before_batch
        self.fed: list[list[tuple[int, ...]]] = []
        """The prompts of each batch."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_rollouts: int,
        max_completion_tokens: int,
        temperature: float,
        seed: int | Sequence[int],
        on_prompt_done: Callable[[], None] | None = None,
    ) -> list[list[SampledCompletion]]:
        assert num_rollouts == 1
        assert not isinstance(seed, int)
        self._before_batch(len(self.fed))
        self.fed.append([tuple(prompt) for prompt in prompts])
        answers = [self._answers[one] for one in seed]
        return [[self._completion(ids)] for ids in answers]

    def update_weights(self, policy: Policy) -> None:
        """Scripts have no weights."""

    def _completion(self, ids: tuple[int, ...]) -> SampledCompletion:
        return SampledCompletion(
            ids=ids,
            logprobs=tuple(-0.125 * (place + 1) for place in range(len(ids))),
            text=self._policy.decode_completion(list(ids)),
            stop_reason="stop" if ids[-1] in self._policy.stop_ids else "length",
        )


def run_acting(
    config: TrainConfig, *, letters: str = "ab", held_out: str = "c", domain: Domain = ACTING_DOMAIN
) -> TrainResult:
    """Train where every repair is possible."""
    with connect_engine() as engine, Termination() as termination:
        return train(
            config,
            episode_starts(letter_instances(letters)),
            episode_starts(letter_instances(held_out)),
            domain,
            acting=acting(engine, config, letters + held_out),
            termination=termination,
        )


if __name__ == "__main__":
    changes = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    run_acting(acting_config(Path(sys.argv[1]), Path(sys.argv[2]), **changes))
