"""Sampling and training on token trees against transformers' own row-by-row ways, on the same work in one run.

    python benchmarks/training.py [MODEL]

P prompts with G rollouts of T tokens each; SmolLM2-135M-Instruct by default. Minutes on a CPU.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from srl_swe.demo.model import ensure_model
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, pack_rows
from srl_swe.training.transformers_sampler import TransformersSampler

P, G, T, PROMPT_TOKENS = 4, 8, 48, 800


def main() -> None:
    """Print tokens per second and ratios."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else ensure_model()
    policy = Policy.from_pretrained(model, compute_dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(20, 40_000, (count,), generator=generator).tolist()

    prompts = [tokens(PROMPT_TOKENS) for _ in range(P)]
    compare_samplers(policy, prompts)
    rows = [Row(prompt_ids=tuple(prompts[0]), completion_ids=tuple(tokens(T))) for _ in range(G)]
    compare_updates(policy, rows)


def compare_samplers(policy: Policy, prompts: list[list[int]]) -> None:
    """Sample every rollout to its full length, ours and `generate(num_return_sequences=G)`."""
    policy.stop_ids = frozenset()
    sampler = TransformersSampler(policy, cached_tokens=P * (PROMPT_TOKENS + G * T), concurrent_rollouts=P * G)
    model = policy.copy_model()
    ids = torch.tensor(prompts)

    def ours() -> None:
        sampler.sample(prompts, num_rollouts=G, max_completion_tokens=T, temperature=1.0, seed=1)

    def generate() -> None:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=G,
            max_new_tokens=T, min_new_tokens=T, pad_token_id=0,
        )  # fmt: skip

    report("sampling", P * G * T, ours, "generate", generate)


def compare_updates(policy: Policy, rows: list[Row]) -> None:
    """Forward and backward of one group, as one tree and row by row; the losses are compared."""
    losses = {}

    def run(name: str, groups: list[list[int]]) -> None:
        policy.model.zero_grad()
        total = 0.0
        for indices in groups:
            for pack in pack_rows(rows, indices, tokens_per_pack=100_000):
                loss = -policy.logprobs(pack).sum()
                loss.backward()
                total += float(loss)
        losses[name] = total

    everything = list(range(len(rows)))
    row_tokens = sum(len(row.token_ids) for row in rows)
    report(
        "training",
        row_tokens,
        lambda: run("tree", [everything]),
        "row by row",
        lambda: run("rows", [[index] for index in everything]),
    )
    print(f"training: relative difference of the losses {abs(losses['tree'] / losses['rows'] - 1):.1e}")


def report(what: str, num_tokens: int, ours: Callable[[], None], peer_name: str, peer: Callable[[], None]) -> None:
    """Run both twice, take the second times, print the ratio."""
    seconds = {}
    for name, work in (("ours", ours), (peer_name, peer)):
        for _ in range(2):
            started = time.perf_counter()
            work()
            seconds[name] = time.perf_counter() - started
    own_s, peer_s = seconds["ours"], seconds[peer_name]
    print(
        f"{what}: ours {own_s:.1f} s ({num_tokens / own_s:.0f} tokens/s), {peer_name} {peer_s:.1f} s "
        f"({num_tokens / peer_s:.0f} tokens/s), ratio {peer_s / own_s:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
