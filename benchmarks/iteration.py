"""A whole iteration of GRPO (sample, score, update, sync) against TRL's on the same step examples, in one run.

    python benchmarks/iteration.py STEPS [--num-prompts 4] [--model MODEL] [--vllm-python .venv-vllm/bin/python]

STEPS is a folder that `srl-swe data compile` wrote. P prompts, G = 8 rollouts of at most T tokens, rewards by
similarity, one update on all groups, and new weights in the sampler. Sides, each a process of its own, of which the
second iteration counts: this project with the embedded sampler; with vLLM, where a Python that has it is named
(`make vllm` makes one); TRL's GRPOTrainer with its transformers sampler and otherwise its defaults. No side replaces
groups without signal.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from srl_swe.demo.model import ensure_model
from srl_swe.prompts import PromptLimits
from srl_swe.software_engineering import software_engineering
from srl_swe.training.advantages import group_advantages
from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row
from srl_swe.training.processes import Processes
from srl_swe.training.rollouts import score_completion
from srl_swe.training.samplers import Sampler
from srl_swe.training.transformers_sampler import TransformersSampler
from srl_swe.training.update import update_policy
from srl_swe.trajectories.store import read_steps
from srl_swe.types import StepExample

G = 8
LEARNING_RATE = 1e-6
SIDES = ("ours", "ours-vllm", "trl")

Seconds = dict[str, float]


def main() -> None:
    """Run the sides and print their seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--history", default="2", choices=["all", "2"])
    parser.add_argument("--num-prompts", type=int, default=4)
    parser.add_argument("--max-prompt-tokens", type=int, default=1200)
    parser.add_argument("--max-completion-tokens", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--vllm-python", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.model = options.model or ensure_model()
    if options.side:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(run_side(options, Path(scratch))))
        return
    found: dict[str, Seconds] = {}
    for side in SIDES:
        if side == "ours-vllm" and not options.vllm_python:
            continue
        python = str(options.vllm_python) if side == "ours-vllm" else sys.executable
        command = [python, __file__, *sys.argv[1:], "--side", side]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[side] = json.loads(output.splitlines()[-1])
        print(f"{side}: " + ", ".join(f"{name} {value:.1f}" for name, value in found[side].items()), flush=True)
    theirs = found.pop("trl")
    for side, ours in found.items():
        print(f"TRL / {side}: {theirs['seconds'] / ours['seconds']:.1f} times the time of a whole iteration")


def run_side(options: argparse.Namespace, scratch: Path) -> Seconds:
    """Return the seconds of the second iteration and what they went to."""
    policy = Policy.from_pretrained(options.model, compute_dtype=getattr(torch, options.dtype))
    limits = PromptLimits(
        history=None if options.history == "all" else int(options.history), max_observation_chars=1000
    )
    domain = software_engineering(limits)
    fitting = (
        example
        for example in read_steps(options.steps, "train")
        if len(policy.encode_prompt(domain.render(example))) <= options.max_prompt_tokens
    )
    examples = list(islice(fitting, options.num_prompts))
    if len(examples) < options.num_prompts:
        sys.exit(
            f"{options.steps} has {len(examples)} steps of at most {options.max_prompt_tokens} tokens; ask for fewer"
        )
    return (trl if options.side == "trl" else ours)(options, policy, domain, examples, scratch)


def ours(
    options: argparse.Namespace, policy: Policy, domain: Any, examples: list[StepExample], scratch: Path
) -> Seconds:
    """Return the seconds of this project."""
    config = TrainConfig(
        model="m", output=scratch, dtype=options.dtype, max_prompt_tokens=options.max_prompt_tokens,
        max_completion_tokens=options.max_completion_tokens,
    )  # fmt: skip
    policy.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=LEARNING_RATE)
    processes = Processes(Accelerator(cpu=True))
    prompts = [policy.encode_prompt(domain.render(example)) for example in examples]
    with ExitStack() as stack:
        sampler = make_sampler(options, policy, prompts, scratch, stack)
        for _ in range(2):
            times = {"prompt_tokens": float(sum(map(len, prompts)))}
            started = time.perf_counter()
            groups = sampler.sample(
                prompts, num_rollouts=G, max_completion_tokens=options.max_completion_tokens, temperature=1.0, seed=0
            )
            times["sample_s"] = time.perf_counter() - started
            advantages, rows, names = [], [], []
            for example, prompt, group in zip(examples, prompts, groups, strict=True):
                rewards = [score_completion(completion.text, example, domain)[0] for completion in group]
                # TRL trains on groups without signal too: the same work here.
                advantages += group_advantages(rewards) if len(set(rewards)) > 1 else [0.0] * G
                rows += [Row(prompt_ids=tuple(prompt), completion_ids=tuple(c.ids)) for c in group]
                names += [example.example_id] * G
            batch = Batch(
                rows=tuple(rows), advantages=tuple(advantages), rows_per_group=G, drawn=len(examples), metrics={},
                example_ids=tuple(names),
            )  # fmt: skip
            updating = time.perf_counter()
            update_policy(
                policy, batch, optimizer=optimizer, processes=processes, learning_rate=LEARNING_RATE, config=config
            )
            times["update_s"] = time.perf_counter() - updating
            syncing = time.perf_counter()
            sampler.update_weights(policy)
            times["sync_s"] = time.perf_counter() - syncing
            times["seconds"] = time.perf_counter() - started
            times["completion_tokens"] = float(sum(len(row.completion_ids) for row in rows))
    return times


def make_sampler(
    options: argparse.Namespace, policy: Policy, prompts: list[list[int]], scratch: Path, stack: ExitStack
) -> Sampler:
    """Return the side's sampler; vLLM's engine ends with the stack."""
    bounds = {"cached_tokens": 2 * sum(map(len, prompts)) + len(prompts) * G * 256, "concurrent_rollouts": 64}
    if options.side == "ours":
        return TransformersSampler(policy, **bounds)
    from srl_swe.training.vllm_sampler import VLLMSampler

    longest = options.max_prompt_tokens + options.max_completion_tokens
    return stack.enter_context(
        closing(VLLMSampler(policy, folder=scratch / "engine", max_row_tokens=longest, **bounds))
    )


def trl(
    options: argparse.Namespace, policy: Policy, domain: Any, examples: list[StepExample], scratch: Path
) -> Seconds:
    """Return the seconds of TRL: one optimizer step on all groups, a group for each forward and backward pass."""
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    ends = [0.0]
    tokens: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    def rewards(completions: list[Any], completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        tokens.append(float(sum(map(len, completion_ids))))
        texts = [completion[0]["content"] for completion in completions]
        return [score_completion(text, examples[n], domain)[0] for text, n in zip(texts, number, strict=True)]

    prompts = [domain.render(example) for example in examples]
    policy.model.set_attn_implementation("sdpa")
    trainer: Any = GRPOTrainer(
        model=policy.model,
        reward_funcs=rewards,
        args=GRPOConfig(
            output_dir=str(scratch / "trl"), loss_type="grpo", epsilon=0.2, beta=0.0, num_generations=G,
            per_device_train_batch_size=G, gradient_accumulation_steps=len(examples), max_steps=2,
            max_completion_length=options.max_completion_tokens, temperature=1.0, learning_rate=LEARNING_RATE,
            use_cpu=True, bf16=options.dtype == "bfloat16", report_to="none", save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": p, "number": n} for n, p in enumerate(prompts)]),
        processing_class=policy.tokenizer,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    return {
        "prompt_tokens": float(sum(len(policy.encode_prompt(domain.render(example))) for example in examples)),
        "seconds": ends[2] - ends[1],
        "completion_tokens": tokens[-1],
    }


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
