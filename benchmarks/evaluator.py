"""The evaluator against swebench's run_evaluation: the same rows, images and predictions, in one run.

    python benchmarks/evaluator.py [--num-instances 24] [--workers 2] [--parts trivial real]

trivial: a module of one function, whose tests take no time, so that overhead is what is measured. real: instances of
real packages with their own tests. Both are SWE-bench v5 rows on local images that keep the contract of its scripts
(/testbed at the base commit, conda, the environment testbed), with a test patch in the script. Predictions are honest:
gold patches, gold patches of the wrong direction, and patches that change nothing of weight. Verdicts and wall times
are compared. Needs a container engine and the base image; some minutes.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    parser.add_argument("--parts", nargs="+", default=["trivial", "real"], choices=["trivial", "real"])
    parser.add_argument("--num-instances", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder, connect_engine() as engine:
            rows = list((trivial_rows if part == "trivial" else real_rows)(engine, options.num_instances))
            compare(part, rows, Path(folder), options.workers)


def trivial_rows(engine: Any, count: int) -> Iterator[Row]:
    """Yield rows whose tests take no time, all on one image."""
    image = build(engine, CALC, "srl-swe/benchmark-calc:1")
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
            f"FROM {instance.tests.restore_image} AS pristine\nFROM {plain}\n{copies}"
            f"RUN cd /testbed && git add -Af {paths} && git diff --cached --binary HEAD -- {paths} > /tests.patch\n",
            f"srl-swe/benchmark-tests:{name}",
        )
        image = build(engine, f"FROM {plain}\n{CONDA}", f"srl-swe/benchmark-v5:{name}")
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
    task_file, predictions_file = folder / "rows.jsonl", folder / "predictions.jsonl"
    task_file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    instances = load_instances(task_file)
    wrong = {each.instance_id: each.model_patch for each in reversed_predictions(instances)}
    predictions = []
    for number, instance in enumerate(instances):
        patch = (instance.gold_patch, wrong[instance.instance_id], NO_CHANGE)[number % 3]
        predictions.append({"instance_id": instance.instance_id, "model_name_or_path": "honest", "model_patch": patch})
    predictions_file.write_text("".join(json.dumps(each) + "\n" for each in predictions))
    ours_command = [PROGRAM, "eval", "--instances", str(task_file), "--predictions", str(predictions_file)]
    ours_command += ["--output", str(folder / "ours"), "--max-parallel", str(workers)]
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
