"""The embedded sampler and vLLM on the same real prompts in one run, vLLM with and without its prefix cache.

    python benchmarks/samplers.py STEPS [MODEL]

STEPS is a folder that `srl-swe data compile` wrote; SmolLM2-135M-Instruct by default. P step examples with G rollouts
of T tokens each, in bfloat16, every rollout to its full length. Needs vLLM beside the extra [train]. Minutes on a CPU.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import psutil
import torch

from srl_swe.demo.model import ensure_model
from srl_swe.prompts import PromptLimits
from srl_swe.software_engineering import software_engineering
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import Sampler
from srl_swe.training.transformers_sampler import TransformersSampler
from srl_swe.training.vllm_sampler import VLLMSampler
from srl_swe.trajectories.store import read_steps

P, G, T, PROMPT_TOKENS = 4, 8, 32, 1200


def main() -> None:
    """Print tokens per second of wall and of CPU time, the share of prompt tokens from the cache, syncs, and ratios."""
    model = Path(sys.argv[2]) if len(sys.argv) > 2 else ensure_model()
    policy = Policy.from_pretrained(model, compute_dtype=torch.bfloat16)
    policy.stop_ids = frozenset()
    domain = software_engineering(PromptLimits(max_observation_chars=1000))
    encoded = (policy.encode_prompt(domain.render(example)) for example in read_steps(Path(sys.argv[1]), "train"))
    prompts = list(islice((ids for ids in encoded if len(ids) <= PROMPT_TOKENS), P))
    lengths = sorted(map(len, prompts))
    print(f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, {sum(lengths)} in all; {G} rollouts of {T}")
    limits = {"cached_tokens": sum(lengths) + P * G * (T + 128), "concurrent_rollouts": P * G}
    rates: dict[str, tuple[float, float]] = {}
    embedded = TransformersSampler(policy, **limits)
    rates["embedded"] = measure("embedded", embedded, policy, prompts, forget=lambda: None)
    del embedded
    for name, prefix_caching in (("vLLM", True), ("vLLM without prefix cache", False)):
        started = time.perf_counter()
        with (
            tempfile.TemporaryDirectory() as scratch,
            closing(
                VLLMSampler(
                    policy,
                    folder=Path(scratch) / "engine",
                    max_row_tokens=PROMPT_TOKENS + T,
                    prefix_caching=prefix_caching,
                    # Without the cache, each rollout holds its prompt.
                    cached_tokens=limits["cached_tokens"] + (0 if prefix_caching else (G - 1) * sum(lengths)),
                    concurrent_rollouts=P * G,
                )
            ) as sampler,
        ):
            print(f"{name}: engine started in {time.perf_counter() - started:.1f} s")
            forget = sampler.forget_prompts
            rates[name] = measure(name, sampler, policy, prompts, forget=forget)
            share = sampler.cached_prompt_tokens / sampler.prompt_tokens
            print(f"{name}: {share:.0%} of the rollouts' prompt tokens came from the cache", flush=True)
    # CPU time is what counts on a machine that does other things too.
    for place, clock in enumerate(("wall time", "CPU time")):
        base, cached, uncached = (rates[n][place] for n in ("embedded", "vLLM", "vLLM without prefix cache"))
        print(
            f"by {clock}: vLLM against the embedded sampler {cached / base:.2f}, without its prefix cache "
            f"{uncached / base:.2f}; prefix cache on against off {cached / uncached:.2f}"
        )


def measure(
    name: str, sampler: Sampler, policy: Policy, prompts: list[list[int]], *, forget: Callable[[], None]
) -> tuple[float, float]:
    """Sample twice with an empty cache; print and return the second's tokens per second of wall and CPU time; sync."""
    seconds = cpu_seconds = 0.0
    for seed in range(2):
        forget()
        started, cpu_before = time.perf_counter(), cpu_time()
        groups = sampler.sample(prompts, num_rollouts=G, max_completion_tokens=T, temperature=1.0, seed=seed)
        seconds, cpu_seconds = time.perf_counter() - started, cpu_time() - cpu_before
    count = sum(len(completion.ids) for group in groups for completion in group)
    started = time.perf_counter()
    sampler.update_weights(policy)
    print(
        f"{name}: {seconds:.1f} s, {count / seconds:.0f} tokens/s; CPU {cpu_seconds:.1f} s, "
        f"{count / cpu_seconds:.0f} tokens/s; weights synced in "
        f"{time.perf_counter() - started:.2f} s",
        flush=True,
    )
    return count / seconds, count / cpu_seconds


def cpu_time() -> float:
    """Return the CPU seconds that this process and the engine's have used."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(entry.user + entry.system for entry in times)


if __name__ == "__main__":
    main()
