"""`run_tiny` with FSDP2 on CPUs: Accelerate offers it on accelerators only, so that its state is told here."""

import sys
from typing import Any

from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from srl_swe.training import run
from srl_swe.training.config import TrainConfig
from tests.training.run_tiny import main

make_plain = run._make_accelerator


def make_sharding_accelerator(config: TrainConfig) -> Any:
    """Make the run's accelerator and turn sharding on."""
    accelerator = make_plain(config)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    state = AcceleratorState()
    state._shared_state["distributed_type"] = DistributedType.FSDP
    state._shared_state["fsdp_plugin"] = plugin
    assert accelerator.is_fsdp2
    return accelerator


if __name__ == "__main__":
    run._make_accelerator = make_sharding_accelerator
    main(sys.argv[1:])
