"""The trajectory compiler against the limit of JSON parsing, on real rows multiplied; what of the real rows it keeps.

python benchmarks/trajectories.py [rows] [compile --num-trajectories 80000 --workers 2] [reward] [replay]

rows: the share of each format's real rows that compile, and every reason to drop one. compile: throughput, memory of
all processes together and the ratio to `orjson.loads` on the same bytes. reward: 4,096 pairs of 1,000 characters.
replay: the expert runs on their instances (minutes on two cores; needs a container engine).
"""

import argparse
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import zstandard

from srl_swe.trajectories.formats import NOTES, ROW_REASONS, DropCounter, read_trajectories

DATA = Path(os.environ.get("SRL_SWE_DATA") or Path(__file__).parents[2] / "shared" / "data")
PROGRAM = str(Path(sys.executable).with_name("srl-swe"))
ROWS_PER_FILE = 2000


def main() -> None:
    """Run the parts that are named, or those that take minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["rows", "compile", "reward"])
    parser.add_argument("--num-trajectories", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for part in options.parts:
        print(f"== {part}", flush=True)
        if part == "rows":
            real_rows()
        elif part == "compile":
            throughput(options.num_trajectories, options.workers)
        elif part == "reward":
            subprocess.run([sys.executable, str(Path(__file__).with_name("rewards.py")), "4096"], check=True)
        elif part == "replay":
            replay()
        else:
            parser.error(f"there is no part {part!r}")


def real_rows() -> None:
    """Print what becomes of every real row, by format."""
    drops, kept, steps = DropCounter(), Counter[str](), Counter[str]()
    for trajectory in read_trajectories([DATA / "trajectories"], drops=drops):
        kept[trajectory.source] += 1
        steps[trajectory.source] += len(trajectory.steps)
    for source in sorted({*kept, *(source for source, _ in drops.counts)}):
        reasons = {reason: count for (found, reason), count in drops.counts.items() if found == source}
        lost = sum(count for reason, count in reasons.items() if reason in ROW_REASONS)
        listed = ", ".join(
            f"{reason.value} {count}" for reason, count in sorted(reasons.items()) if reason not in NOTES
        )
        rows = kept[source] + lost
        share = f"{kept[source] / rows:.0%}" if rows else "-"
        kept_of = f"{kept[source]:4} of {rows:4} rows ({share}), {steps[source]:5} steps"
        print(f"{source:28} {kept_of}; dropped: {listed or '-'}")


def multiplied() -> Iterator[bytes]:
    """Yield the real rows without end, each time as other runs: other ids, another last command."""
    rows: list[dict[str, object]] = []
    for path in sorted((DATA / "trajectories").rglob("*")):
        if path.name == "report.json" or not path.is_file() or path.suffix not in (".json", ".jsonl", ".traj"):
            continue
        text = path.read_text(errors="replace")
        for line in text.splitlines() if path.suffix == ".jsonl" else [text]:
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append({"instance_id": path.name.split(".traj")[0], **row})
    for copy in itertools.count():
        for row in rows:
            text = orjson.dumps(row | {"instance_id": f"{row['instance_id']}.copy{copy}"})
            yield text + b"\n"


def throughput(num_trajectories: int, num_workers: int) -> None:
    """Compile multiplied rows; print rate, memory, and the limit."""
    with tempfile.TemporaryDirectory() as folder:
        rows, num_bytes = Path(folder) / "rows", 0
        rows.mkdir()
        source = multiplied()
        for start in range(0, num_trajectories, ROWS_PER_FILE):
            with zstandard.open(rows / f"{start:06}.jsonl.zst", "wb", cctx=zstandard.ZstdCompressor(level=1)) as stream:
                for row in itertools.islice(source, min(ROWS_PER_FILE, num_trajectories - start)):
                    num_bytes += len(row)
                    stream.write(row)
        packed = sum(path.stat().st_size for path in rows.iterdir())
        print(f"{num_trajectories} rows, {num_bytes / 1e9:.2f} GB of JSON, {packed / 1e9:.2f} GB packed", flush=True)

        started = time.perf_counter()
        for path in sorted(rows.iterdir()):
            with zstandard.open(path, "rb") as stream:
                for line in io.BufferedReader(stream, 2**20):
                    orjson.loads(line)
        limit_s = time.perf_counter() - started

        command = [PROGRAM, "data", "compile", str(rows), "--out", f"{folder}/steps"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--workers", str(num_workers), "--allow-swe-bench-repos"], stdout=subprocess.DEVNULL
        )
        memory = _Memory(process.pid)
        assert process.wait() == 0
        taken_s = time.perf_counter() - started
        manifest = json.loads(Path(folder, "steps", "manifest.json").read_text())
        kept = sum(manifest["num_trajectories"].values())
        print(
            f"compile: {taken_s:.1f} s with {num_workers} workers = {num_trajectories / taken_s:.0f} trajectories/s, "
            f"{num_bytes / taken_s / 1e6:.0f} MB/s; {kept} kept, {sum(manifest['num_examples'].values())} steps\n"
            f"memory of all processes together, at most: {memory.stop() / 1e6:.0f} MB (proportional set size)\n"
            f"orjson.loads on the same rows, unpacked by one process: {limit_s:.1f} s; ratio {taken_s / limit_s:.2f}"
        )


class _Memory:
    """The most memory that a process and its children take, sampled ten times a second."""

    def __init__(self, process_id: int) -> None:
        self._process = psutil.Process(process_id)
        self._most, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            total = 0
            try:
                for process in (self._process, *self._process.children(recursive=True)):
                    total += process.memory_full_info().pss
            except psutil.Error:
                continue
            self._most = max(self._most, total)


def replay() -> None:
    """Compile the expert runs and replay all of them."""
    with tempfile.TemporaryDirectory() as folder:
        program = [PROGRAM, "data"]
        experts, instances = DATA / "trajectories" / "expert_pypi", DATA / "pypi_swe" / "instances.jsonl"
        subprocess.run([*program, "compile", str(experts), "--out", f"{folder}/steps"], check=True)
        # How the recording's machine differed: another site folder, no byte code, root without limits.
        recorded = ["--same-paths", "/opt/site=/opt/venv/lib/python3.11/site-packages"]
        recorded += ["--variables", "PYTHONDONTWRITEBYTECODE=1", "--capabilities", "DAC_OVERRIDE", "CHOWN", "FOWNER"]
        subprocess.run([*program, "replay", f"{folder}/steps", "--instances", str(instances), *recorded], check=True)


if __name__ == "__main__":
    main()
