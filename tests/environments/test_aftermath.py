"""A process is killed, and what it left goes without anybody starting anything."""

import subprocess
import sys
import time

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from tests.environments.conftest import BASE_IMAGE
from tests.environments.engines import variables_of

PROGRAM = f"""
from srl_swe.environments.aftermath import Aftermath
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.container import Container
aftermath = Aftermath()
print(Container.start(connect_engine(), {BASE_IMAGE!r}).name, flush=True)
input()
"""


@pytest.mark.docker
def test_what_a_killed_process_leaves_is_removed_at_once(engine: Engine) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=variables_of(engine),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert engine.state(name).running
        process.kill()
        deadline = time.monotonic() + 30
        while name in {row.id for row in engine.list_containers(LABEL)}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
        engine.remove(name)
