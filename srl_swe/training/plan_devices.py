"""What a run would be on: kind and number of GPUs, or this machine's processor, with memory and speed.

Speeds are the makers' data sheets (dense, without sparsity); how much of them a run reaches is an assumption.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from srl_swe.errors import ConfigError

GIB = 2**30

USABLE_SHARE = 0.85
"""Of a device's memory; the rest is the runtime's own (CUDA's context, libraries), freed pieces too small to use, and
the error of a prediction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU, or a machine's processor."""

    name: str
    memory_bytes: int
    bfloat16_flops: float
    """Peak floating-point operations per second of dense matrix products in bfloat16."""
    float32_flops: float
    bandwidth: float
    """Bytes per second from and to its memory."""
    utilisation: float
    """Assumed share of the peak that training reaches."""
    note: str
    """Where speed and utilisation come from, to be shown."""
    is_gpu: bool = True

    @property
    def usable_bytes(self) -> int:
        """Return the memory that a run may fill."""
        return int(self.memory_bytes * USABLE_SHARE)

    def flops(self, dtype: str) -> float:
        """Return the peak in a dtype, "bfloat16" or "float32"."""
        return self.bfloat16_flops if dtype == "bfloat16" else self.float32_flops


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """Some devices of one kind, a process on each."""

    device: Device
    count: int

    def with_utilisation(self, share: float) -> "Devices":
        """Return them with another assumption of how much of the peak training reaches."""
        note = f"{share:.0%} of the peak, as given"
        return replace(self, device=replace(self.device, utilisation=share, note=note))


def parse_devices(text: str) -> Devices:
    """Read "8xH100", "H100", "4xA100-40GB", "1x24GB" (a GPU of that memory) or "cpu" (this machine).

    Raises:
        ConfigError: it is none of these; the message lists the kinds.
    """
    if text.lower() == "cpu":
        return Devices(device=this_processor(), count=1)
    found = re.fullmatch(r"(?:(\d+)\s*[x*]\s*)?([a-z][a-z0-9]*)?(?:[- ]?(\d+)\s*gi?b)?", text.strip().lower())
    if found is None or not (found[2] or found[3]) or found[1] == "0":
        raise ConfigError(f"gpus must be like 8xH100, 1x24GB or cpu, found {text!r}; kinds: {', '.join(KINDS)}")
    count = int(found[1] or 1)
    memory_bytes = int(found[3]) * GIB if found[3] else None
    if found[2] is None:
        assert memory_bytes is not None
        return Devices(device=_unknown(memory_bytes), count=count)
    names = {name.lower(): name for name in KINDS}
    if found[2] not in names:
        raise ConfigError(
            f"gpus names a GPU {found[2]!r} that is not known; known are {', '.join(KINDS)}. Give its memory instead, "
            f"for example {count}x24GB"
        )
    device = KINDS[names[found[2]]]
    if memory_bytes is not None:
        device = replace(device, name=f"{device.name}-{found[3]}GB", memory_bytes=memory_bytes)
    return Devices(device=device, count=count)


def this_processor() -> Device:
    """Return this machine: the cores that this process may use, and the memory that is there."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError) as error:
        raise ConfigError(f"the size of this machine's memory is not known ({error}); name a GPU with gpus") from error
    return processor(cores=cores, memory_bytes=memory_bytes)


def processor(*, cores: int, memory_bytes: int) -> Device:
    """Return a server processor with so many cores."""
    return Device(
        name=f"CPU, {cores} cores",
        memory_bytes=memory_bytes,
        bfloat16_flops=cores * CORE_BFLOAT16_FLOPS,
        float32_flops=cores * CORE_FLOAT32_FLOPS,
        bandwidth=CPU_BANDWIDTH,
        utilisation=1.0,
        note="speed of a core: reached by training SmolLM2-135M-Instruct on a server processor (benchmarks/plan.py)",
        is_gpu=False,
    )


CORE_FLOAT32_FLOPS = 66e9
CORE_BFLOAT16_FLOPS = 105e9
"""What training reaches on one core, not a peak: measured by benchmarks/plan.py on an EPYC with AVX-512."""
CPU_BANDWIDTH = 30e9

_ASSUMED = "peak by the data sheet; 30 % of it in training is assumed"


def _gpu(name: str, gib: int, bfloat16: float, float32: float, bandwidth: float) -> Device:
    return Device(
        name=name,
        memory_bytes=gib * GIB,
        bfloat16_flops=bfloat16 * 1e12,
        float32_flops=float32 * 1e12,
        bandwidth=bandwidth * 1e9,
        utilisation=0.3,
        note=_ASSUMED,
    )


def _unknown(memory_bytes: int) -> Device:
    gib = memory_bytes // GIB
    return replace(
        _gpu(f"GPU of {gib} GB", gib, 100, 30, 600), note="100 TFLOP/s and 600 GB/s, 30 % of them, are assumed: no kind"
    )


KINDS: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        for device in (
            _gpu("H200", 141, 989, 67, 4800),
            _gpu("H100", 80, 989, 67, 3350),
            _gpu("A100", 80, 312, 19.5, 2039),
            _gpu("L40S", 48, 362, 91.6, 864),
            _gpu("A10", 24, 125, 31.2, 600),
            _gpu("L4", 24, 121, 30.3, 300),
            _gpu("RTX5090", 32, 209, 104.8, 1792),
            _gpu("RTX4090", 24, 165, 82.6, 1008),
            _gpu("RTX3090", 24, 71, 35.6, 936),
        )
    }
)
"""Memory in GiB, TFLOP/s in bfloat16 and float32, GB/s."""
