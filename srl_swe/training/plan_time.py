"""Time of an iteration: floating-point operations of training and sampling, over the speed that a device reaches.

Utilisations and overheads are assumptions, named here; what a CPU reaches was measured by benchmarks/plan.py.
"""

from dataclasses import dataclass

from srl_swe.training.plan_devices import Devices
from srl_swe.training.plan_model import ModelShape
from srl_swe.training.plan_options import PlannedOptions
from srl_swe.training.plan_workload import PackSizes, Workload

CPU_DECODE_SHARE = 0.25
"""Of the speed in training that decoding some rollouts at once reaches on a CPU (120 tokens/s at 16 rollouts)."""
GPU_BANDWIDTH_SHARE = 0.6
"""Of a GPU's bandwidth that reading weights and cache reaches; assumed."""
LAUNCH_S = 10e-6
"""Of one small kernel, which the embedded sampler starts one by one; assumed."""
KERNELS_PER_LAYER, KERNELS_PER_GROUP = 15, 6
"""Of one decoding pass of the embedded sampler, per layer and, besides, per layer and prompt at work; assumed."""
ENGINE_STEP_S = 3e-3
"""What a decoding pass of vLLM costs besides reading weights and cache; assumed."""
SHARDING_FACTOR = 1.15
"""How much longer training takes where shards are gathered and gradients exchanged; assumed."""
BYTES_PER_OPTIMIZED = 28
"""AdamW reads weight, gradient and two moments of a trained parameter and writes three of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePlan:
    """Seconds of one iteration, and how many there are."""

    sampling_s: float
    training_s: float
    validation_s: float
    """A validation's time, divided by the iterations between two."""
    iterations_per_epoch: int

    @property
    def iteration_s(self) -> float:
        """Return the time of an iteration."""
        return self.sampling_s + self.training_s + self.validation_s

    @property
    def epoch_hours(self) -> float:
        """Return the time of one pass over the step examples."""
        return self.iteration_s * self.iterations_per_epoch / 3600


def plan_time(
    shape: ModelShape, options: PlannedOptions, workload: Workload, devices: Devices, *, kept_share: float
) -> TimePlan:
    """Return the time of an iteration in which this share of the sampled groups is kept."""
    parts = devices.count
    device = devices.device
    speed = device.flops(options.dtype) * device.utilisation
    whole = PackSizes(
        tree_tokens=workload.tree_tokens,
        targets=workload.completion_tokens,
        mask_entries=round(workload.tree_tokens * workload.keys_per_query),
    )
    training_s = training_flops(shape, options, whole) / speed / parts
    training_s *= SHARDING_FACTOR if options.launch == "fsdp2" else 1
    trained = shape.adapter_parameters(options.lora_rank) if options.lora_rank else shape.num_parameters
    shards = parts if options.launch == "fsdp2" else 1
    training_s += BYTES_PER_OPTIMIZED * trained / shards / device.bandwidth
    groups = workload.num_prompts / kept_share / parts
    sampling_s = 0.0
    if options.method != "sft":
        sampling_s = _sampling_s(shape, options, workload, devices, groups, workload.rollouts_per_prompt)
    held_out = options.validation_examples / options.validate_every / parts
    return TimePlan(
        sampling_s=sampling_s,
        training_s=training_s,
        validation_s=_sampling_s(shape, options, workload, devices, held_out, 1),
        iterations_per_epoch=workload.iterations_per_epoch,
    )


def training_flops(shape: ModelShape, options: PlannedOptions, pack: PackSizes) -> float:
    """Return the floating-point operations of a forward and backward pass.

    Two for each weight and token forward; backward two for the inputs' gradients and two for the weights', where those
    are trained. Attention does two products forward and five backward. Recomputing does the forward pass again.
    """
    again = 2 if options.gradient_checkpointing else 0
    linear = ((4 if options.lora_rank else 6) + again) * shape.linear_parameters * pack.tree_tokens
    attention = (14 + 2 * again) * shape.num_layers * shape.query_width * pack.mask_entries
    logits = (6 if options.lora_rank else 8) * shape.embedding_parameters * pack.targets
    return float(linear + attention + logits)


def _sampling_s(
    shape: ModelShape,
    options: PlannedOptions,
    workload: Workload,
    devices: Devices,
    num_prompts: float,
    rollouts_per_prompt: int,
) -> float:
    """Return the time to sample so many prompts on one device: prompts once each, then token by token."""
    device = devices.device
    speed = device.flops(options.dtype) * device.utilisation
    prompt_tokens = workload.mean_prompt_tokens * num_prompts
    per_token = 2 * shape.linear_parameters + 2 * shape.num_layers * shape.query_width * workload.mean_prompt_tokens
    prefill_s = per_token * prompt_tokens / speed
    num_rollouts = num_prompts * rollouts_per_prompt
    at_once = max(min(options.concurrent_rollouts, num_rollouts), 1)
    passes = num_rollouts / at_once * workload.mean_completion_tokens
    multiplied = 2 * (shape.linear_parameters + shape.embedding_parameters) * at_once
    if not device.is_gpu:
        return prefill_s + passes * multiplied / (speed * CPU_DECODE_SHARE)
    groups = max(at_once / rollouts_per_prompt, 1)
    cached = groups * workload.mean_prompt_tokens + at_once * workload.mean_completion_tokens / 2
    read = options.itemsize * (shape.linear_parameters + shape.embedding_parameters)
    read += round(cached * shape.bytes_per_cached_token(options.itemsize))
    reading_s = read / (device.bandwidth * GPU_BANDWIDTH_SHARE)
    if options.sampler == "transformers":
        own_s = shape.num_layers * (KERNELS_PER_LAYER + KERNELS_PER_GROUP * groups) * LAUNCH_S
        # Kernels wait for each other's data or for being started, whichever is slower.
        return prefill_s + passes * max(reading_s + multiplied / speed, own_s)
    return prefill_s + passes * (reading_s + multiplied / speed + ENGINE_STEP_S)
