"""The evaluator against swebench's run_evaluation: the same rows, images and predictions, in one run.

    python benchmarks/evaluator.py [--num-instances 24] [--workers 2] [--parts trivial real]
    python benchmarks/evaluator.py --parts many --num-instances 500
    python benchmarks/evaluator.py --parts killed

trivial: a module of one function, whose tests take no time, so that overhead is what is measured. real: instances of
real packages with their own tests. Both are SWE-bench v5 rows on local images that keep the contract of its scripts
(/testbed at the base commit, conda, the environment testbed), with a test patch in the script. Predictions are honest:
gold patches, gold patches of the wrong direction, and patches that change nothing of weight. Verdicts and wall times
are compared. Needs a container engine and the base image; some minutes.

Of our own evaluator alone: many: trivial rows, with the most memory of all its processes while each tenth of them got
verdicts, the seconds per instance and worker, and what is left in the engine. killed: kill -9 at ten random moments,
each time run again; the report must be that of a run in one go, and no verdict be written twice.
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.progress import track

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.images import BASE_IMAGE, ensure_image
from srl_swe.environments.instances import load_instances
from srl_swe.evaluation.controls import reversed_predictions
from srl_swe.types import Instance

DATA = Path(os.environ.get("SRL_SWE_DATA") or Path(__file__).parents[2] / "shared" / "data")
PROGRAM = str(Path(sys.executable).with_name("srl-swe"))

CONDA = """\
RUN mkdir -p /opt/miniconda3/bin && printf '%s\\n' 'conda() {' \
 '  export CONDA_DEFAULT_ENV=testbed PATH="/opt/venv/bin:$PATH"' '}' > /opt/miniconda3/bin/activate
"""
CALC = f"""\
FROM {BASE_IMAGE}
RUN mkdir /testbed && cd /testbed && printf 'def add(a, b):\\n    return a - b\\n' > calc.py \
 && git init -q && git add -A && git -c user.name=t -c user.email=t@t commit -qm base
WORKDIR /testbed
{CONDA}"""
CALC_IMAGE = "srl-swe/benchmark-calc:1"
CALC_GOLD = "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"
CALC_TESTS = """\
diff --git a/test_calc.py b/test_calc.py
new file mode 100644
--- /dev/null
+++ b/test_calc.py
@@ -0,0 +1,3 @@
+import calc
+print('PASSED' if calc.add(2, 3) == 5 else 'FAILED', 'test_calc.py::test_add')
+print('PASSED' if calc.add(2, 0) == 2 else 'FAILED', 'test_calc.py::test_zero')
"""
NO_CHANGE = (
    "diff --git a/NOTE.txt b/NOTE.txt\nnew file mode 100644\n--- /dev/null\n+++ b/NOTE.txt\n@@ -0,0 +1 @@\n+a note\n"
)
SCRIPT = """\
#!/bin/bash
set -uxo pipefail
source /opt/miniconda3/bin/activate
conda activate testbed
cd /testbed
git config --global --add safe.directory /testbed
cd /testbed
git status
git show --stat
git -c core.fileMode=false diff {base}
git apply -v - <<'EOF_114329324912'
{test_patch}
EOF_114329324912
: '>>>>> Start Test Output'
{command}
: '>>>>> End Test Output'
git clean -fdq {test_files}
git checkout -q {base} -- .
"""

Row = dict[str, Any]


def main() -> None:
    """Run the parts and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", default=["trivial", "real"], choices=["trivial", "real", "many", "killed"]
    )
    parser.add_argument("--num-instances", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder, connect_engine() as engine:
            rows = list((real_rows if part == "real" else trivial_rows)(engine, options.num_instances))
            {"many": many, "killed": killed}.get(part, partial(compare, part))(rows, Path(folder), options.workers)


def trivial_rows(engine: Any, count: int) -> Iterator[Row]:
    """Yield rows whose tests take no time, all on one image."""
    image = build(engine, CALC, CALC_IMAGE)
    base = output_of(image, "git rev-parse HEAD").strip()
    for number in range(count):
        yield row(
            instance_id=f"tiny__calc-{number}",
            repo="tiny/calc",
            image=image,
            base=base,
            patch="diff --git a/calc.py b/calc.py\n" + CALC_GOLD,
            test_patch=CALC_TESTS,
            command="python3 test_calc.py",
            tests=(["test_calc.py::test_add"], ["test_calc.py::test_zero"]),
        )


def real_rows(engine: Any, count: int) -> Iterator[Row]:
    """Yield rows of real packages, taken from each in turn."""
    by_repo: dict[str, list[Instance]] = defaultdict(list)
    for instance in load_instances(DATA / "pypi_swe" / "instances.jsonl"):
        by_repo[instance.repo].append(instance)
    turns = [instances[turn] for turn in range(count) for instances in by_repo.values() if turn < len(instances)]
    for instance in track(turns[:count], description="images", transient=True):
        paths = " ".join(instance.tests.restore_paths)
        plain = ensure_image(engine, instance.environment)
        name = plain.rpartition(":")[2]
        copies = "".join(f"COPY --from=pristine /testbed/{p} /testbed/{p}\n" for p in instance.tests.restore_paths)
        tested = build(
            engine,
            f"FROM {instance.tests.restore_image} AS pristine\nFROM {plain}\nENTRYPOINT []\n{copies}"
            f"RUN cd /testbed && git add -Af {paths} && git diff --cached --binary HEAD -- {paths} > /tests.patch\n",
            f"srl-swe/benchmark-tests:{name}",
        )
        image = build(engine, f"FROM {plain}\nENTRYPOINT []\n{CONDA}", f"srl-swe/benchmark-v5:{name}")
        yield row(
            instance_id=instance.instance_id,
            repo=instance.repo,
            image=image,
            base=output_of(image, "git rev-parse HEAD").strip(),
            patch=instance.gold_patch,
            test_patch=output_of(tested, "cat /tests.patch"),
            command=instance.tests.script.split("Start Test Output'\n")[1].split("\n")[0],
            tests=(list(instance.tests.fail_to_pass), list(instance.tests.pass_to_pass)),
        )


def row(
    *,
    instance_id: str,
    repo: str,
    image: str,
    base: str,
    patch: str,
    test_patch: str,
    command: str,
    tests: tuple[list[str], list[str]],
) -> Row:
    """Return a row in SWE-bench's v5 form."""
    files = sorted({line[6:] for line in test_patch.splitlines() if line.startswith("+++ b/")})
    script = SCRIPT.format(base=base, test_patch=test_patch, command=command, test_files=" ".join(files))
    if not test_patch.strip():
        script = script.replace("git apply -v - <<'EOF_114329324912'\n\nEOF_114329324912\n", "")
    return {
        "instance_id": instance_id, "repo": repo, "base_commit": base, "patch": patch, "test_patch": test_patch,
        "problem_statement": "", "version": "1", "FAIL_TO_PASS": json.dumps(tests[0]),
        "PASS_TO_PASS": json.dumps(tests[1]), "image": image, "eval_script": script,
        "log_parser": "parse_log_pytest", "eval_type": "pass_and_fail",
    }  # fmt: skip


def compare(part: str, rows: Sequence[Row], folder: Path, workers: int) -> None:
    """Grade the same predictions by both and print what differs."""
    task_file, predictions_file = write_task(rows, folder)
    ours_command = our_command(folder, "ours", workers)
    their_command = [sys.executable, "-m", "swebench.harness.run_evaluation", "-d", str(task_file)]
    their_command += ["-p", str(predictions_file), "-id", "benchmark", "--max_workers", str(workers)]
    their_command += ["--report_dir", str(folder / "theirs")]
    ours_s = seconds(ours_command, folder)
    theirs_s = seconds(their_command, folder)
    ours = json.loads((folder / "ours" / "report.json").read_text())
    theirs = json.loads(next((folder / "theirs").glob("*.json")).read_text())
    names = ("resolved_ids", "unresolved_ids", "error_ids")
    differing = sorted(set(ours["resolved_ids"]) ^ set(theirs["resolved_ids"]))
    print(
        f"{part}: {len(rows)} instances, {workers} workers: ours {ours_s:.1f} s, swebench {version('swebench')} "
        f"{theirs_s:.1f} s, ratio {theirs_s / ours_s:.1f}"
    )
    print(f"{part}: ours {[len(ours[name]) for name in names]}, theirs {[len(theirs[name]) for name in names]} {names}")
    print(f"{part}: resolved by one alone: {', '.join(differing) or 'none'}", flush=True)


def many(rows: Sequence[Row], folder: Path, workers: int) -> None:
    """Grade all in one go and watch the memory."""
    write_task(rows, folder)
    started = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        run = subprocess.Popen(our_command(folder, "ours", workers), cwd=folder, stdout=log, stderr=log)
        program = psutil.Process(run.pid)
        memory: dict[int, float] = {}
        while run.poll() is None:
            share = len(verdict_files(folder / "ours")) * 10 // len(rows)
            with suppress(psutil.NoSuchProcess):
                used = sum(each.memory_info().rss for each in (program, *program.children(recursive=True))) / 1e6
                memory[share] = max(memory.get(share, 0.0), used)
            time.sleep(0.5)
    wall_s = time.perf_counter() - started
    report = json.loads((folder / "ours" / "report.json").read_text())
    print(
        f"many: {len(rows)} instances, {workers} workers, {wall_s:.0f} s, {wall_s * workers / len(rows):.2f} s of a "
        f"worker for each; resolved {len(report['resolved_ids'])}, unresolved {len(report['unresolved_ids'])}, "
        f"errors {len(report['error_ids'])}"
    )
    print(
        "many: MB at most while so many tenths had verdicts: " + ", ".join(f"{k}: {v:.0f}" for k, v in memory.items())
    )
    print(f"many: containers left: {len(containers())}", flush=True)


def killed(rows: Sequence[Row], folder: Path, workers: int) -> None:
    """Kill the evaluator ten times at random and compare with a run in one go."""
    write_task(rows, folder)
    whole_s = seconds(our_command(folder, "whole", workers), folder)
    written: dict[Path, int] = {}
    rewritten = 0
    moments = random.Random(0)
    for _ in range(10):
        run = subprocess.Popen(
            our_command(folder, "killed", workers), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.1, 0.3 * whole_s))
        run.kill()
        run.wait()
        rewritten += note_verdicts(folder / "killed", written)
        print(f"killed: {len(written)} of {len(rows)} verdicts", flush=True)
    seconds(our_command(folder, "killed", workers), folder)
    rewritten += note_verdicts(folder / "killed", written)
    whole, resumed = ((folder / name / "report.json").read_text() for name in ("whole", "killed"))
    print(f"killed: same report {whole == resumed}, verdicts written twice {rewritten}, {len(written)} verdicts")
    print(f"killed: containers left: {len(containers())}", flush=True)


def note_verdicts(output: Path, written: dict[Path, int]) -> int:
    """Note when each verdict was written, and return how many of those noted before were written again."""
    found = {file: file.stat().st_mtime_ns for file in verdict_files(output)}
    again = sum(found.get(file) != moment for file, moment in written.items())
    written.update(found)
    return again


def verdict_files(output: Path) -> list[Path]:
    """Return the files of the verdicts in an evaluation's folder."""
    return list(output.glob("results/*/*.json"))


def containers() -> list[str]:
    """Return the ids of the containers of the trivial rows' image."""
    command = ["docker", "ps", "-aq", "--filter", f"ancestor={CALC_IMAGE}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def write_task(rows: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """Write the rows and honest predictions: gold, of the wrong direction, and without weight, in turn."""
    task_file, predictions_file = folder / "rows.jsonl", folder / "predictions.jsonl"
    task_file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    instances = load_instances(task_file)
    wrong = {each.instance_id: each.model_patch for each in reversed_predictions(instances)}
    predictions = []
    for number, instance in enumerate(instances):
        patch = (instance.gold_patch, wrong[instance.instance_id], NO_CHANGE)[number % 3]
        predictions.append({"instance_id": instance.instance_id, "model_name_or_path": "honest", "model_patch": patch})
    predictions_file.write_text("".join(json.dumps(each) + "\n" for each in predictions))
    return task_file, predictions_file


def our_command(folder: Path, output: str, workers: int) -> list[str]:
    """Return our evaluator's command for what `write_task` wrote."""
    files = ["--instances", str(folder / "rows.jsonl"), "--predictions", str(folder / "predictions.jsonl")]
    return [PROGRAM, "eval", *files, "--output", str(folder / output), "--max-parallel", str(workers)]


def seconds(command: Sequence[str], folder: Path) -> float:
    """Run a command and return its wall time; its exit code is not looked at, as ours says what is unresolved."""
    started = time.perf_counter()
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if outcome.returncode not in (0, 1):
        print(outcome.stdout[-2000:], outcome.stderr[-2000:])
    return time.perf_counter() - started


def build(engine: Any, dockerfile: str, tag: str) -> str:
    """Build an image and return its tag."""
    engine.client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=tag, rm=True, forcerm=True)
    return tag


def output_of(image: str, command: str) -> str:
    """Run a command in a fresh container without a network."""
    docker = ["docker", "run", "--rm", "--network", "none", "-w", "/testbed", image, "bash", "-c", command]
    return subprocess.run(docker, check=True, stdout=subprocess.PIPE, text=True, errors="surrogateescape").stdout


if __name__ == "__main__":
    main()
