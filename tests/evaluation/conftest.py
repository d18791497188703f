"""A tiny instance that grades in under a second, on an image made from the base image."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import BASE_IMAGE
from srl_swe.environments.leases import LABEL, owner_labels
from srl_swe.errors import EngineUnavailableError
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests

TINY_IMAGE = "srl-swe/test-evaluation:1"

DOCKERFILE = f"""\
FROM {BASE_IMAGE}
RUN mkdir /testbed && cd /testbed && printf 'def add(a, b):\\n    return a - b\\n' > calc.py && git init -q \
 && git add -A && git -c user.name=t -c user.email=t@t commit -qm base
WORKDIR /testbed
"""

SCRIPT = """\
echo '>>>>> Start Test Output'
python3 - <<'EOF'
import calc
print('PASSED' if calc.add(2, 3) == 5 else 'FAILED', 'test_calc.py::test_add')
print('PASSED' if calc.add(2, 0) == 2 else 'FAILED', 'test_calc.py::test_zero')
EOF
echo '>>>>> End Test Output'
"""

GOLD_PATCH = """\
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""

TINY = Instance(
    instance_id="tiny__calc-0",
    repo="tiny/calc",
    base_commit="",
    problem_statement="add(2, 3) returns -1.",
    environment=InstanceEnvironment(image=TINY_IMAGE),
    tests=InstanceTests(
        script=SCRIPT,
        parser="parse_log_pytest",
        fail_to_pass=("test_calc.py::test_add",),
        pass_to_pass=("test_calc.py::test_zero",),
        timeout_s=30.0,
    ),
    gold_patch=GOLD_PATCH,
)


def tiny_instances(count: int) -> tuple[Instance, ...]:
    return tuple(replace(TINY, instance_id=f"tiny__calc-{number}") for number in range(count))


def slow(instance: Instance, seconds: float) -> Instance:
    return replace(instance, tests=replace(instance.tests, script=f"sleep {seconds}\n{SCRIPT}"))


def own_containers(engine: Engine) -> set[str]:
    mine = owner_labels().items()
    return {container.id for container in engine.list_containers(LABEL) if mine <= container.labels.items()}


@pytest.fixture(scope="session")
def tiny_engine() -> Iterator[Engine]:
    """An engine that has the tiny instance's image."""
    try:
        engine = connect_engine()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with engine:
        if engine.find_image(BASE_IMAGE) is None:
            pytest.skip(f"the base image {BASE_IMAGE} is missing; `make setup` makes it")
        engine.client.images.build(fileobj=io.BytesIO(DOCKERFILE.encode()), tag=TINY_IMAGE, rm=True)
        yield engine


def write_rows(path: Path, instances: Sequence[Instance], *, base_commit: str = "0" * 40) -> Path:
    """Write instances as SWE-bench v5 rows."""
    rows = [
        {
            "instance_id": instance.instance_id,
            "repo": instance.repo,
            "base_commit": base_commit,
            "problem_statement": instance.problem_statement,
            "patch": instance.gold_patch,
            "FAIL_TO_PASS": list(instance.tests.fail_to_pass),
            "PASS_TO_PASS": list(instance.tests.pass_to_pass),
            "image": instance.environment.image,
            "eval_script": instance.tests.script,
            "log_parser": instance.tests.parser,
        }
        for instance in instances
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
