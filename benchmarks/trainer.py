"""The update phase against TRL's GRPO update and against the floor, on real trajectories, in one run.

    python benchmarks/trainer.py [--history all|2] [--num-steps 12] [--max-prompt-tokens 4096] [--no-checkpointing]
        [--device cuda] [--attention sdpa|flex]

Every step of real expert trajectories has G = 8 rollouts, sampled from SmolLM2-135M-Instruct. One update is made of
them (forward, backward, clip, AdamW) by this project, by TRL with the same loss, dtype and gradient checkpointing, and
by the floor: plain causal sequences of the same model with as many tokens as the trees have, as long as the longest
row, with logits for as many tokens as are targets. Each side is a process of its own; memory is its peak above the
loaded model. The losses of the first two are compared. On a GPU memory is the device's, and each side does one update
before the one that is measured, for what is compiled on the way.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from srl_swe.demo.model import ensure_model
from srl_swe.prompts import PromptLimits
from srl_swe.software_engineering import software_engineering
from srl_swe.training.batches import Batch
from srl_swe.training.config import TrainConfig
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, pack_rows
from srl_swe.training.processes import Processes
from srl_swe.training.transformers_sampler import TransformersSampler
from srl_swe.training.update import update_policy
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.steps import StepFilter, compile_trajectories, step_examples
from srl_swe.types import StepExample

DATA = Path(os.environ.get("SRL_SWE_DATA") or Path(__file__).parents[2] / "shared" / "data") / "trajectories"
G = 8


def main() -> None:
    """Sample the rollouts, run the sides, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--history", default="all", choices=["all", "2"])
    parser.add_argument("--num-steps", type=int, default=12)
    parser.add_argument("--max-prompt-tokens", type=int, default=4096)
    parser.add_argument("--max-completion-tokens", type=int, default=96)
    parser.add_argument("--tokens-per-pack", type=int, default=16384)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--attention", default="auto", choices=["auto", "sdpa", "flex"], help="of ours")
    parser.add_argument("--side", choices=["ours", "trl", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.model = options.model or ensure_model()
    if options.side:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps(sampled_rows(options)))
        found = {}
        for side in ("ours", "floor", "trl"):
            found[side] = in_a_process(side, rows)
            print(f"{side}: {found[side]['seconds']:.1f} s", flush=True)
    ours, floor, trl = found["ours"], found["floor"], found["trl"]
    print(
        f"{int(ours['rows'])} rows, {int(ours['row_tokens'])} row tokens, {int(ours['tree_tokens'])} tree tokens "
        f"({ours['row_tokens'] / ours['tree_tokens']:.1f} times less), {options.dtype}, gradient checkpointing "
        f"{'off' if options.no_checkpointing else 'on'}, {options.device}, attention {options.attention}, "
        f"{torch.get_num_threads()} threads"
    )
    for side, numbers in found.items():
        rate = numbers["row_tokens"] / numbers["seconds"]
        memory = numbers["peak_mb"]
        print(f"{side:>6}: {numbers['seconds']:7.1f} s, {rate:7.0f} row tokens/s, {memory:6.0f} MB above the model")
    print(f"TRL / ours: {trl['seconds'] / ours['seconds']:.1f} times the time, {trl['peak_mb'] / ours['peak_mb']:.1f}")
    print(f"floor / ours: {floor['seconds'] / ours['seconds']:.2f} (1 = no more than the unique tokens cost)")
    print(
        f"losses: ours {ours['loss']:.6f}, TRL {trl['loss']:.6f}; gradient norms {ours['norm']:.4f}, {trl['norm']:.4f}"
    )


def in_a_process(side: str, rows: Path) -> dict[str, float]:
    """Run one side with the options of this process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--rows", str(rows)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    numbers: dict[str, float] = json.loads(output.splitlines()[-1])
    return numbers


def sampled_rows(options: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    """Return prompt and completion ids: the steps of the first trajectories that fit, G rollouts each."""
    policy = Policy.from_pretrained(options.model, compute_dtype=torch.bfloat16, device=options.device)
    limits = PromptLimits(history=None if options.history == "all" else int(options.history))
    domain = software_engineering(limits)
    prompts: list[list[int]] = []
    for steps in trajectories():
        ids = [policy.encode_prompt(domain.render(step)) for step in steps]
        prompts += [prompt for prompt in ids if len(prompt) <= options.max_prompt_tokens]
        if len(prompts) >= options.num_steps:
            break
    prompts = prompts[: options.num_steps]
    sampler = TransformersSampler(policy, cached_tokens=2**20, concurrent_rollouts=64)
    groups = sampler.sample(
        prompts, num_rollouts=G, max_completion_tokens=options.max_completion_tokens, temperature=1.0, seed=0
    )
    return [
        (prompt, list(completion.ids)) for prompt, group in zip(prompts, groups, strict=True) for completion in group
    ]


def trajectories() -> list[list[StepExample]]:
    """Return the steps of the real expert runs, longest trajectories first."""
    drops = DropCounter()
    read = read_trajectories([DATA / "expert_pypi"], drops=drops)
    found = [
        list(step_examples(compiled)) for compiled in compile_trajectories(read, step_filter=StepFilter(), drops=drops)
    ]
    return sorted(found, key=len, reverse=True)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure one update."""
    pairs = json.loads(options.rows.read_text())
    rows = tuple(Row(prompt_ids=tuple(prompt), completion_ids=tuple(completion)) for prompt, completion in pairs)
    generator = random.Random(0)
    advantages = tuple(generator.gauss(0, 1) for _ in rows)
    packs = pack_rows(rows, range(len(rows)), tokens_per_pack=options.tokens_per_pack)
    sizes = {
        "rows": len(rows),
        "row_tokens": sum(len(row.token_ids) for row in rows),
        "tree_tokens": sum(pack.num_tokens for pack in packs),
        "targets": sum(len(pack.target_nodes_N) for pack in packs),
        "longest": max(len(row.token_ids) for row in rows),
    }
    side = {"ours": ours, "trl": trl, "floor": floor}[options.side](options, rows, advantages, sizes)
    if options.device == "cuda":
        return {**on_a_gpu(side), **sizes}
    gc.collect()
    before = psutil.Process().memory_info().rss
    with PeakMemory() as peak:
        started = time.perf_counter()
        loss, norm = side()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": (peak.most - before) / 1e6, "loss": loss, "norm": norm, **sizes}


def on_a_gpu(side: Any) -> dict[str, float]:
    """Measure the second update, and the most memory of the device above what was there before it."""
    loss, norm = side()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    side()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak_mb": (torch.cuda.max_memory_allocated() - before) / 1e6,
        "loss": loss,
        "norm": norm,
    }


def ours(
    options: argparse.Namespace, rows: tuple[Row, ...], advantages: tuple[float, ...], sizes: dict[str, int]
) -> Any:
    """Return one update by this project."""
    policy = Policy.from_pretrained(
        options.model,
        compute_dtype=getattr(torch, options.dtype),
        device=options.device,
        attention=options.attention,
    )
    if not options.no_checkpointing:
        policy.enable_gradient_checkpointing()
    config = TrainConfig(
        model="m", output=Path("unused"), dtype=options.dtype, tokens_per_pack=options.tokens_per_pack,
        max_prompt_tokens=options.max_prompt_tokens, max_completion_tokens=options.max_completion_tokens,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-9)
    processes = Processes(Accelerator(cpu=options.device == "cpu"))
    names = tuple("step" for _ in rows)
    batch = Batch(
        rows=rows, advantages=advantages, rows_per_group=G, drawn=len(rows) // G, metrics={}, example_ids=names
    )

    def update() -> tuple[float, float]:
        metrics = update_policy(
            policy, batch, optimizer=optimizer, processes=processes, learning_rate=1e-9, config=config
        )
        return metrics["train/loss"], metrics["train/grad_norm"]

    return update


def trl(
    options: argparse.Namespace, rows: tuple[Row, ...], advantages: tuple[float, ...], sizes: dict[str, int]
) -> Any:
    """Return one update by TRL: a group of rollouts, padded, for each forward and backward pass, as by its defaults."""
    import datasets
    from trl import GRPOConfig, GRPOTrainer

    policy = Policy.from_pretrained(options.model, device=options.device)
    policy.model.set_attn_implementation("sdpa")
    trainer: Any = GRPOTrainer(
        model=policy.model,
        reward_funcs=lambda **_: [0.0],
        args=GRPOConfig(
            output_dir=str(options.rows.parent / "trl"), loss_type="grpo", epsilon=0.2, beta=0.0, num_generations=G,
            per_device_train_batch_size=G, max_completion_length=options.max_completion_tokens,
            use_cpu=options.device == "cpu",
            bf16=options.dtype == "bfloat16", gradient_checkpointing=not options.no_checkpointing, report_to="none",
            disable_dropout=True,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=policy.tokenizer,
    )  # fmt: skip
    model = policy.model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
    if not options.no_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    groups = [(rows[i : i + G], advantages[i : i + G]) for i in range(0, len(rows), G)]
    trainer.current_gradient_accumulation_steps = len(groups)

    def update() -> tuple[float, float]:
        total = 0.0
        optimizer.zero_grad(set_to_none=True)
        for group, group_advantages in groups:
            with trainer.compute_loss_context_manager():
                loss = trainer._compute_loss(model, padded(group, group_advantages, options.device))
            trainer.accelerator.backward(loss)
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total, float(norm)

    return update


def padded(rows: tuple[Row, ...], advantages: tuple[float, ...], device: str) -> dict[str, torch.Tensor]:
    """Return a group as TRL's trainer holds it: prompts padded on the left, completions on the right."""
    width = max(len(row.prompt_ids) for row in rows)
    length = max(len(row.completion_ids) for row in rows)
    prompt = [[0] * (width - len(row.prompt_ids)) + list(row.prompt_ids) for row in rows]
    completion = [list(row.completion_ids) + [0] * (length - len(row.completion_ids)) for row in rows]
    sizes = [(len(row.prompt_ids), len(row.completion_ids)) for row in rows]
    tensors = {
        "prompt_ids": torch.tensor(prompt),
        "prompt_mask": torch.tensor([[0] * (width - p) + [1] * p for p, _ in sizes]),
        "completion_ids": torch.tensor(completion),
        "completion_mask": torch.tensor([[1] * c + [0] * (length - c) for _, c in sizes]),
        "advantages": torch.tensor(advantages),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def floor(
    options: argparse.Namespace, rows: tuple[Row, ...], advantages: tuple[float, ...], sizes: dict[str, int]
) -> Any:
    """Return one update on plain causal sequences with as many tokens as the trees have."""
    policy = Policy.from_pretrained(options.model, device=options.device)
    model = policy.model
    model.set_attn_implementation("sdpa")
    if not options.no_checkpointing:
        policy.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
    lengths = [sizes["longest"]] * (sizes["tree_tokens"] // sizes["longest"])
    lengths += [rest] if (rest := sizes["tree_tokens"] - sum(lengths)) > 1 else []
    share = sizes["targets"] / sizes["tree_tokens"]

    def update() -> tuple[float, float]:
        optimizer.zero_grad(set_to_none=True)
        for length in lengths:
            ids = torch.randint(20, 40_000, (1, length), device=options.device)
            kept = min(length - 1, int(share * length) + 1)
            with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
                logits = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, -kept:])
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return 0.0, float(norm)

    return update


class PeakMemory:
    """The most resident memory of this process while the block runs, in bytes, looked at every 5 ms."""

    def __enter__(self) -> "PeakMemory":
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.005):
            self.most = max(self.most, process.memory_info().rss)


if __name__ == "__main__":
    main()
