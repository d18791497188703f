"""The environment against mini-swe-agent's Docker environment and the bare engine, on the same commands in one run.

python benchmarks/environment.py [--engine docker|embedded] [--only step reset fork parallel output]

Prints medians, limits and ratios; needs the base image (`make setup`), and for the peer `pip install mini-swe-agent`
(part of the extra [dev]). With --engine embedded the peer and the bare `docker run` are left out.
"""

import contextlib
import gc
import logging
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from srl_swe.environments.connect import ENGINE_VARIABLE, connect_engine
from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import PARENT_LABEL
from srl_swe.environments.leases import LABEL
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.shell import Shell
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests

BASE = "srl-swe/base:bookworm"
IMAGE = "srl-swe/benchmark:latest"
COMMANDS = ("true", "ls", "cat file1", "grep -c x file2", "git status --short")
SETUP = """
set -e
mkdir /repo && cd /repo && git init -q
for folder in $(seq 40); do
  mkdir $folder
  for file in $(seq 100); do head -c 100000 /dev/urandom >$folder/$file; done
done
for file in 1 2 3; do seq 1000 >file$file; done
printf '/[0-9]*/\\n' >.git/info/exclude
git add -A && git -c user.name=a -c user.email=a@b commit -qm base
"""
"""A work tree of 400 MB in 4,000 files."""

Part = Literal["step", "reset", "fork", "parallel", "output"]
console = Console(width=150)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What to measure."""

    engine: Literal["docker", "embedded"] = "docker"
    only: Annotated[tuple[Part, ...], tyro.conf.arg(help="the parts to run")] = (
        "step",
        "reset",
        "fork",
        "parallel",
        "output",
    )
    num_episodes: int = 200
    """Of the part `parallel`, by 20 commands each, over 16 members."""


def main() -> None:
    """Run the parts and print their tables."""
    options = tyro.cli(Options, description=__doc__)
    os.environ[ENGINE_VARIABLE] = options.engine
    logging.disable(logging.WARNING)
    with connect_engine() as engine, _instance(engine) as instance:
        console.print(f"{engine.name}, {os.cpu_count()} cores")
        parts: dict[Part, Callable[[], None]] = {
            "step": lambda: _step(engine, instance),
            "reset": lambda: _reset(engine, instance),
            "fork": lambda: _fork(engine, instance),
            "parallel": lambda: _parallel(engine, instance, options.num_episodes),
            "output": lambda: _output(engine),
        }
        for part in options.only:
            parts[part]()


@contextlib.contextmanager
def _instance(engine: Engine) -> Iterator[Instance]:
    if engine.find_image(IMAGE) is None:
        console.print("making an image with a work tree of 400 MB")
        with Container.start(engine, BASE, limits=ContainerLimits(disk_bytes=4 << 30)) as container:
            result = container.execute(["bash", "-c", SETUP], timeout_s=600)
            assert result.exit_code == 0, result.output
            container.commit(IMAGE, labels={})
    yield Instance(
        instance_id="benchmark",
        repo="a/b",
        base_commit="",
        problem_statement="nothing",
        environment=InstanceEnvironment(image=IMAGE, workdir="/repo"),
        tests=InstanceTests(script="true", parser="parse_log_pytest", fail_to_pass=("t",), pass_to_pass=()),
        gold_patch="",
    )
    found = engine.find_image(IMAGE)
    for prepared in engine.list_images(f"{PARENT_LABEL}={found.id}" if found else "none"):
        engine.remove_image(prepared.id)
    engine.remove_image(IMAGE)


def _step(engine: Engine, instance: Instance) -> None:
    """Overhead of a step: its wall time less that of the command, run in a loop by one bash in the container."""
    table = Table(title="a step, ms: wall time of env.step less the command itself (median of 200, p99)")
    for heading in ("command", "itself", "ours", "overhead", "p99", "mini-swe-agent", "its overhead", "ratio"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    env = SWEEnv([instance], engine=engine, grade=False, num_warm=0)
    env.reset()
    peer = _peer() if engine.name.startswith("docker") else None
    all_ours, all_theirs = [], []
    for command in COMMANDS:
        itself_s = _itself(env, command)
        ours = [seconds - itself_s for seconds in _times(lambda text=command: env.step(text), 200)]  # type: ignore[misc]
        row = [
            command,
            _ms(itself_s),
            _ms(statistics.median(ours) + itself_s),
            _ms(statistics.median(ours)),
            _ms(_p99(ours)),
        ]
        all_ours += ours
        if peer is not None:
            theirs = [s - itself_s for s in _times(lambda text=command: peer.execute({"command": text}), 30)]  # type: ignore[misc]
            all_theirs += theirs
            ratio = statistics.median(theirs) / max(statistics.median(ours), 1e-6)
            row += [_ms(statistics.median(theirs) + itself_s), _ms(statistics.median(theirs)), f"{ratio:.0f}x"]
        table.add_row(*row)
    total = ["all", "", "", _ms(statistics.median(all_ours)), _ms(_p99(all_ours))]
    if all_theirs:
        ratio = statistics.median(all_theirs) / statistics.median(all_ours)
        total += ["", _ms(statistics.median(all_theirs)), f"{ratio:.0f}x"]
        peer.cleanup()
    table.add_row(*total, style="bold")
    console.print(table)
    env.close()


def _itself(env: SWEEnv, command: str) -> float:
    """Return the seconds that a command takes in a bash of the container that runs it again and again."""
    loop = f"start=$EPOCHREALTIME; for i in $(seq 200); do {command}; done >/dev/null; echo $start $EPOCHREALTIME"
    start, end = (float(text) for text in env.step(loop)[0].split())
    return (end - start) / 200


def _peer():  # type: ignore[no-untyped-def]
    os.environ["MSWEA_SILENT_STARTUP"] = "1"
    from minisweagent.environments.docker import DockerEnvironment

    return DockerEnvironment(image=IMAGE, cwd="/repo")


def _reset(engine: Engine, instance: Instance) -> None:
    table = Table(title="reset and close, ms (medians)")
    for heading in ("what", "median", "p90", "limit"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    env = SWEEnv([instance], engine=engine, grade=False)
    env.reset()
    warm = []
    for _ in range(20):
        env.step("echo x >>file1")
        time.sleep(1.0)  # an agent thinks
        warm += _times(env.reset, 1)
    closing = _times(env.close, 1)
    in_a_row = SWEEnv([instance], engine=engine, grade=False)
    in_a_row.reset()
    hurried = _times(in_a_row.reset, 10)
    closing += _times(in_a_row.close, 1)
    cold, bare = [], []
    started: list[str] = []
    for _ in range(15):  # in turns, so that both meet the same machine
        one = SWEEnv([instance], engine=engine, grade=False, num_warm=0)
        one._connection()
        cold += _times(one.reset, 1)
        closing += _times(one.close, 1)
        if engine.name.startswith("docker"):
            bare += _times(lambda: started.append(_docker_run()), 1)
            subprocess.run(["docker", "rm", "-f", started[-1]], capture_output=True, check=True)
    _row(table, "warm reset, one second after the one before", warm, "50")
    _row(table, "resets in a row (one warm container)", hurried, "")
    _row(table, "cold reset", cold, "")
    if bare:
        _row(table, "bare docker run -d", bare, "")
        ratio = statistics.median(cold) / statistics.median(bare)
        table.add_row("cold reset / docker run", f"{ratio:.2f}", "", "1.3")
    _row(table, "close", closing, "200")
    console.print(table)


def _docker_run() -> str:
    command = ["docker", "run", "-d", "--network", "none", "--label", "srl-swe-benchmark=1", IMAGE, "sleep", "600"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _fork(engine: Engine, instance: Instance) -> None:
    table = Table(title="fork of an episode in a work tree of 400 MB, s (medians)")
    for heading in ("what the episode has changed", "fork(1)", "fork(4), each", "limit"):
        table.add_column(heading, justify="left" if heading.startswith("what") else "right")
    changes = {
        "20 files": ("for i in $(seq 20); do echo x >>$i/1; done", 7),
        "every file (400 MB written)": ("for file in */*; do echo x >>$file; done", 3),
    }
    for what, (command, times) in changes.items():
        env = SWEEnv([instance], engine=engine, grade=False, num_warm=0, limits=ContainerLimits(disk_bytes=8 << 30))
        env.reset()
        env.step(command)
        single, several = [], []
        for _ in range(times):
            single += _forks(env, 1)
            several += [seconds / 4 for seconds in _forks(env, 4)]
        table.add_row(what, f"{statistics.median(single):.2f}", f"{statistics.median(several):.2f}", "0.5")
        env.close()
    console.print(table)


def _forks(env: SWEEnv, n: int) -> list[float]:
    started = time.perf_counter()
    forks = env.fork(n)
    seconds = time.perf_counter() - started
    for fork in forks:
        fork.close()
    return [seconds]


def _parallel(engine: Engine, instance: Instance, num_episodes: int) -> None:
    """Episodes of 20 commands over 16 members: errors, leaks, memory of this process, calls open at the engine."""
    with contextlib.closing(SWEEnv([instance], engine=engine, grade=False)) as first:
        first.reset()  # keeps a prepared image
    members = [SWEEnv([instance], engine=engine, grade=False, num_warm=0) for _ in range(16)]
    left, lock, errors = list(range(num_episodes)), threading.Lock(), []
    samples: list[float] = []
    most_calls, stop = [0], threading.Event()
    slots = getattr(engine, "_slots", None)

    def watch() -> None:
        while not stop.wait(0.02) and slots is not None:
            most_calls[0] = max(most_calls[0], slots.num_taken())

    def play(env: SWEEnv) -> None:
        while True:
            with lock:
                if not left:
                    return
                left.pop()
                if len(left) % (num_episodes // 8) == 0:
                    gc.collect()
                    samples.append(_resident_mb())
            try:
                env.reset()
                for number in range(20):
                    observation = env.step(
                        f"echo {number} >>file1; tail -n 1 file1; {COMMANDS[number % len(COMMANDS)]}"
                    )[0]
                    assert observation.startswith(f"{number}\n"), observation
            except Exception as error:  # noqa: BLE001 - the benchmark counts them
                errors.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(play, members))
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    for env in members:
        env.close()
    own = [row for row in engine.list_containers(LABEL) if row.labels.get("srl_swe.pid") == str(os.getpid())]
    table = Table(title=f"{num_episodes} episodes of 20 commands over 16 members")
    table.add_column("what")
    table.add_column("found", justify="right")
    for what, found in (
        ("errors", f"{len(errors)} {errors[:1] or ''}"),
        ("containers left", str(len(own))),
        ("seconds, steps a second", f"{seconds:.0f}, {20 * num_episodes / seconds:.0f}"),
        ("memory of this process on the way, MB", " ".join(f"{sample:.0f}" for sample in samples)),
        ("most calls open at the engine at once", str(most_calls[0]) if slots is not None else "-"),
    ):
        table.add_row(what, found)
    console.print(table)


def _output(engine: Engine) -> None:
    with Container.start(engine, BASE) as container, Shell(container, workdir="/root") as shell:
        shell.run("yes abcdefghi | head -c 10000000", timeout_s=60)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before_mb = _resident_mb()
        started = time.perf_counter()
        result = shell.run("yes abcdefghi | head -c 1000000000", timeout_s=600)
        seconds = time.perf_counter() - started
        assert result.omitted_bytes > 999_000_000
        peak_mb = int(_status("VmHWM")) / 1024
    console.print(f"1 GB of output: {seconds:.1f} s, our process grew by {peak_mb - before_mb:.1f} MB (limit 20)")


def _times(work: Callable[[], object], number: int) -> list[float]:
    seconds = []
    for _ in range(number):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def _row(table: Table, what: str, seconds: list[float], limit: str) -> None:
    p90 = sorted(seconds)[int(0.9 * (len(seconds) - 1))]
    table.add_row(what, _ms(statistics.median(seconds)), _ms(p90), limit)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 0.01 else f"{1000 * seconds:.0f}"


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def _resident_mb() -> float:
    return int(_status("VmRSS")) / 1024


def _status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
