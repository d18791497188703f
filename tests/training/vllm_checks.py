"""What the tests of both vLLM samplers share; needs no vLLM itself."""

from pathlib import Path

import torch
from accelerate import Accelerator

from srl_swe.training.batches import Batch
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.training.processes import Processes
from srl_swe.training.samplers import SampledCompletion, Sampler
from srl_swe.training.update import update_policy

from .run_tiny import tiny_config

HEAD_WIDTH = 32
"""vLLM's attention on CPUs has no narrower heads."""
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 11, 12, 13, 14] * 20, [2, 2, 2]]


def sample(sampler: Sampler, *, temperature: float = 1.0, seed: int | list[int] = 3) -> list[list[SampledCompletion]]:
    return sampler.sample(PROMPTS, num_rollouts=4, max_completion_tokens=9, temperature=temperature, seed=seed)


def policy_logprobs(policy: Policy, prompt: list[int], ids: tuple[int, ...], temperature: float) -> torch.Tensor:
    row = torch.tensor([[*prompt, *ids]])
    with torch.no_grad():
        logits = policy.model(input_ids=row).logits[0, len(prompt) - 1 : -1] / (temperature or 1.0)
    return logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None]).squeeze(1)


def check_logprobs(policy: Policy, groups: list[list[SampledCompletion]], temperature: float) -> None:
    for prompt, completions in zip(PROMPTS, groups, strict=True):
        for completion in completions:
            expected = policy_logprobs(policy, prompt, completion.ids, temperature)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)


def train_some(policy: Policy, output: Path) -> None:
    """Three real updates towards completions of its own, large enough to change what is likely."""
    rows = tuple(Row(prompt_ids=(1, 2, 3), completion_ids=(4 + i, 7, 31)) for i in range(8))
    batch = Batch(rows=rows, advantages=(1.0, -1.0) * 4, rows_per_group=4, drawn=2, metrics={}, example_ids=("t",) * 8)
    optimizer = torch.optim.AdamW(policy.model.parameters())
    config = tiny_config(Path("m"), output, "srl", updates_per_iteration=1)
    for _ in range(3):
        update_policy(
            policy,
            batch,
            optimizer=optimizer,
            processes=Processes(Accelerator(cpu=True)),
            learning_rate=0.02,
            config=config,
        )
