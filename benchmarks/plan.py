"""What `srl-swe plan` predicts beside what a real update takes: memory and time, on a CPU.

    python benchmarks/plan.py --data steps/ [--model FOLDER] [--packs 1024 2048 4096] [--threads 1] [--json FILE]

For each pack size, dtype, and gradient checkpointing on and off, a process of its own loads SmolLM2-135M-Instruct,
makes a small first update (after it, AdamW's states are there) and then measures one update of one pack: its peak of
resident memory above the process before the model was loaded, and its processor time. Rows are real prompts of the
set with completions that experts wrote for other steps, 8 to a prompt. The prediction is made for that very pack.
Then the tokens that a plan expects of an iteration are compared with those of the packs that the trainer would make.
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

G = 8


def main() -> None:
    """Measure every case, or print one as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--packs", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lora-rank", type=int)
    parser.add_argument("--json", type=Path, help="measurements: written there, read from there where it exists")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options, int(options.case[0]), options.case[1], options.case[2] == "1")))
        return
    cases = []
    if options.json and options.json.exists():
        cases = json.loads(options.json.read_text())
    else:
        for pack, dtype, recomputed in itertools.product(options.packs, options.dtypes, (False, True)):
            command = [sys.executable, __file__, *sys.argv[1:], "--case", str(pack), dtype, str(int(recomputed))]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            cases.append(json.loads(output.splitlines()[-1]))
            print(cases[-1], file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(cases, indent=1))
    compare(options, cases)
    compare_iteration(options)


def compare_iteration(options: argparse.Namespace, num_prompts: int = 128) -> None:
    """Print what a plan expects of an iteration beside the packs that are made of its rows."""
    from srl_swe.curation.iteration_size import IterationLimits, draw_steps, measure_iteration
    from srl_swe.curation.lengths import characters, tokens_of
    from srl_swe.demo.model import ensure_model
    from srl_swe.prompts import PromptLimits
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.policy import Policy
    from srl_swe.training.prefix_tree import Row, pack_rows

    model = options.model or ensure_model()
    limits = IterationLimits(
        num_prompts=num_prompts, rollouts_per_prompt=G, max_prompt_tokens=4096, max_completion_tokens=1024,
        needs_target=False,
    )  # fmt: skip
    drawn = draw_steps(options.data, num_prompts)
    policy = Policy.from_pretrained(model)
    print("history           how      row tokens  tree tokens  targets  mask entries")
    for history in (2, None):
        prompts = PromptLimits(history=history)
        domain = software_engineering(prompts)
        rows: list[Row] = []
        for step in drawn.steps:
            prompt = tuple(policy.encode_prompt(domain.render(step)))
            if len(prompt) <= limits.max_prompt_tokens and len(rows) < num_prompts * G:
                ids = policy.encode_completion(domain.write(step.expert_thought or "-", step.expert_action))[:1024]
                # Rollouts part at their first token.
                rows += [Row(prompt_ids=prompt, completion_ids=(1000 + i, *ids[1:])) for i in range(G)]
        packs = pack_rows(rows, range(len(rows)), tokens_per_pack=16384)
        found = (
            sum(len(row.token_ids) for row in rows),
            sum(pack.num_tokens for pack in packs),
            sum(len(pack.target_nodes_N) for pack in packs),
            sum(block.mask_QK.numel() for pack in packs for block in pack.attention_blocks()),
        )
        print(f"{history or 'all':7} {'measured':>15}  {found[0]:12,} {found[1]:12,} {found[2]:8,} {found[3]:13,}")
        for measure in (tokens_of(str(model)), characters()):
            made = measure_iteration(drawn, measure, prompts, limits)
            entries = made.tree_tokens * made.keys_per_query
            planned = (made.row_tokens, made.tree_tokens, made.completion_tokens, entries)
            ratios = "  ".join(f"{a / b:.2f}" for a, b in zip(planned, found, strict=True))
            print(f"{history or 'all':7} {'by ' + measure.unit:>15}  predicted / measured: {ratios}")


def compare(options: argparse.Namespace, cases: list[dict[str, Any]]) -> None:
    """Print prediction and measurement of each case."""
    from srl_swe.demo.model import ensure_model
    from srl_swe.training.plan_devices import Devices, processor
    from srl_swe.training.plan_memory import plan_memory
    from srl_swe.training.plan_model import find_shape
    from srl_swe.training.plan_options import PlannedOptions
    from srl_swe.training.plan_time import training_flops
    from srl_swe.training.plan_workload import PackSizes, make_workload

    shape = find_shape(str(options.model or ensure_model()))
    devices = Devices(device=processor(cores=options.threads, memory_bytes=2**40), count=1)
    workload = make_workload(
        prompt_sizes=[1],
        trunk_tokens=1,
        completion_sizes=[1],
        rollouts_per_prompt=1,
        num_steps=1,
        num_dropped=0,
        how="",
    )
    print("dtype     recomputed rank  tokens targets | GB predicted measured ratio | s predicted measured ratio")
    for case in cases:
        pack = PackSizes(tree_tokens=case["tree_tokens"], targets=case["targets"], mask_entries=case["mask_entries"])
        planned = PlannedOptions(
            method="srl", dtype=case["dtype"], tokens_per_pack=pack.tree_tokens, optimizer="adamw", sampler="none",
            gradient_checkpointing=case["gradient_checkpointing"], lora_rank=case["lora_rank"], launch="single",
            cached_tokens=0, concurrent_rollouts=1, rollouts_per_prompt=1, max_prompt_tokens=1,
            max_completion_tokens=1, keep_checkpoints=1, validate_every=1, validation_examples=0,
        )  # fmt: skip
        memory = plan_memory(shape, planned, workload, devices, pack=pack).phase_bytes("training")
        device = devices.device
        seconds = training_flops(shape, planned, pack) / (device.flops(case["dtype"]) * device.utilisation)
        print(
            f"{case['dtype']:9} {'yes' if case['gradient_checkpointing'] else 'no':10} {case['lora_rank'] or '-':4} "
            f"{pack.tree_tokens:7} {pack.targets:7} | {memory / 1e9:12.2f} {case['peak_bytes'] / 1e9:8.2f} "
            f"{memory / case['peak_bytes']:5.2f} | {seconds:11.1f} {case['cpu_s']:8.1f} {seconds / case['cpu_s']:5.2f}"
        )


def measure(options: argparse.Namespace, tokens_per_pack: int, dtype: str, recomputed: bool) -> dict[str, Any]:
    """Measure one update of one pack in this process."""
    import psutil
    import torch
    from accelerate import Accelerator

    from srl_swe.demo.model import ensure_model
    from srl_swe.training.batches import Batch
    from srl_swe.training.config import TrainConfig
    from srl_swe.training.optimizers import make_optimizer
    from srl_swe.training.policy import Policy
    from srl_swe.training.prefix_tree import Row, pack_rows
    from srl_swe.training.processes import Processes
    from srl_swe.training.update import update_policy
    from srl_swe.training.weights import add_adapters

    torch.set_num_threads(options.threads)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    policy = Policy.from_pretrained(options.model or ensure_model(), compute_dtype=getattr(torch, dtype))
    if options.lora_rank:
        policy.model.to(policy.compute_dtype)
        add_adapters(policy.model, rank=options.lora_rank, alpha=2 * options.lora_rank, seed=0)
    if recomputed:
        policy.enable_gradient_checkpointing()
    rows = real_rows(options.data, policy, tokens_per_pack)
    config = TrainConfig(
        model="m", output=Path("unused"), dtype=dtype, tokens_per_pack=2**20, lora_rank=options.lora_rank,
        learning_rate=1e-9,
    )  # fmt: skip
    optimizer = make_optimizer(config, policy.model)
    processes = Processes(Accelerator(cpu=True))

    def update(some: list[Any]) -> None:
        batch = Batch(
            rows=tuple(some), advantages=tuple((-1.0) ** i for i in range(len(some))), rows_per_group=1,
            drawn=1, metrics={}, example_ids=("step",) * len(some),
        )  # fmt: skip
        update_policy(policy, batch, optimizer=optimizer, processes=processes, learning_rate=1e-9, config=config)

    update([Row(prompt_ids=(1, 2, 3), completion_ids=(4, 5)), Row(prompt_ids=(1, 2, 3), completion_ids=(6, 7))])
    gc.collect()
    [pack] = pack_rows(rows, range(len(rows)), tokens_per_pack=2**20)
    blocks = pack.attention_blocks()
    resident = process.memory_info().rss
    with PeakMemory() as peak:
        started, used = time.perf_counter(), time.process_time()
        update(rows)
        wall, cpu = time.perf_counter() - started, time.process_time() - used
    return {
        "tokens_per_pack": tokens_per_pack, "dtype": dtype, "gradient_checkpointing": recomputed,
        "lora_rank": options.lora_rank,
        "tree_tokens": pack.num_tokens, "row_tokens": pack.num_row_tokens, "targets": len(pack.target_nodes_N),
        "mask_entries": sum(block.mask_QK.numel() for block in blocks),
        "resident_bytes": resident - before, "peak_bytes": peak.most - before, "wall_s": wall, "cpu_s": cpu,
    }  # fmt: skip


def real_rows(data: Path, policy: Any, tokens_per_pack: int) -> list[Any]:
    """Return as many groups of rows, each with a real prompt, as make a tree of about so many tokens."""
    from srl_swe.prompts import PromptLimits, write
    from srl_swe.software_engineering import software_engineering
    from srl_swe.training.prefix_tree import Row, build_pack
    from srl_swe.trajectories.store import read_steps

    domain = software_engineering(PromptLimits())
    steps = list(read_steps(data, "train"))
    texts = [write(step.expert_thought or "as before", step.expert_action) for step in steps[:200]]
    completions = [tuple(policy.encode_completion(text)) for text in dict.fromkeys(texts)]
    rows: list[Any] = []
    size = 0
    for index, step in enumerate(steps[5::7]):
        prompt = tuple(policy.encode_prompt(domain.render(step)))
        for place in range(G):
            completion = completions[(index * G + place) % len(completions)]
            row = Row(prompt_ids=prompt, completion_ids=completion)
            grown = build_pack([*rows, row], range(len(rows) + 1)).num_tokens
            if grown <= tokens_per_pack:
                rows.append(row)
                size = grown
        if size > 0.95 * tokens_per_pack:
            return rows
    raise SystemExit(f"{data} has too few steps for a pack of {tokens_per_pack} tokens")


class PeakMemory:
    """The most resident memory of this process while the block runs, in bytes, looked at every 2 ms."""

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
        import psutil

        process = psutil.Process()
        while not self._ended.wait(0.002):
            self.most = max(self.most, process.memory_info().rss)


if __name__ == "__main__":
    main()
