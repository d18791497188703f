"""Several Ray nodes on this machine, each with an engine of its own, bound to the loopback interface."""

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

_QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}
RESOURCE = "container_engine"


class LocalCluster:
    """A head that does not grade, and nodes that do."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "node_ip_address": "127.0.0.1",
                "_system_config": _QUICK_TO_NOTICE,
            },
        )
        self.address: str = self._cluster.address

    def add(self, variables: Mapping[str, str]) -> Any:
        """Start a node whose processes have these variables."""
        return self._cluster.add_node(
            num_cpus=1, resources={RESOURCE: 1}, node_ip_address="127.0.0.1", env_vars=dict(variables), wait=False
        )

    def wait(self) -> None:
        """Wait until all nodes are there."""
        self._cluster.wait_for_nodes()

    def kill(self, node: Any) -> None:
        """Let a node die as in a power cut: its raylet is killed, and the node's other processes end with it."""
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextmanager
def local_cluster() -> Iterator[LocalCluster]:
    """Start a cluster, in a folder of its own whose name is short enough for sockets."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="srl-ray-") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        from ray._private import ray_constants

        # Ray may have been imported before the variable was set.
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        cluster = LocalCluster()
        try:
            yield cluster
        finally:
            cluster.close()
