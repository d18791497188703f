"""Memory of one device in a run, term by term, in the phases that a run goes through.

Formulas of this project's own update and samplers, checked against measured updates by benchmarks/plan.py on a CPU.
What holds on GPUs alone is marked; it was not measured. P = parameters, T = tokens of a pack.
"""

from dataclasses import dataclass

from srl_swe.training.plan_devices import Devices
from srl_swe.training.plan_model import ModelShape
from srl_swe.training.plan_options import PlannedOptions
from srl_swe.training.plan_workload import PackSizes, Workload

PHASES = ("loading", "sampling", "training", "optimizer step")

LOGIT_CHUNK = 1024
"""As `srl_swe.training.scorer` has it, which needs torch."""
BLOCK_TOKENS = 256
"""As `srl_swe.training.prefix_tree` has it."""
BYTES_PER_LOGIT = 20
"""Float32 numbers for each logit of a chunk at the peak: logits, their log-softmax, and for the entropy a second
log-softmax, its exponential and the product of the two."""
BYTES_PER_DRAWN_LOGIT = 28
"""Logits, log-probabilities and probabilities in float32, their float64 copy and its cumulative sum."""
KEPT_BLOCK_BYTES = 32 * 2**20
"""Freed blocks of the C library below this size stay with a process."""
ENGINE_BYTES = 3 * 2**30
"""Assumed of a vLLM engine on a GPU besides weights and cache: its CUDA context, graphs and activations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTerm:
    """Bytes of one kind on one device, and when they are there."""

    name: str
    num_bytes: int
    phases: tuple[str, ...]
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """All terms of one device."""

    terms: tuple[MemoryTerm, ...]

    def phase_bytes(self, phase: str) -> int:
        """Return what is there at once in a phase."""
        return sum(term.num_bytes for term in self.terms if phase in term.phases)

    @property
    def peak_phase(self) -> str:
        """Return the phase that needs most."""
        return max(PHASES, key=self.phase_bytes)

    @property
    def peak_bytes(self) -> int:
        """Return the most that is there at once."""
        return self.phase_bytes(self.peak_phase)


def plan_memory(
    shape: ModelShape, options: PlannedOptions, workload: Workload, devices: Devices, *, pack: PackSizes | None = None
) -> MemoryPlan:
    """Return the memory of one device.

    `pack` is the pack to plan for; by default the largest that the options and the workload make.
    """
    pack = pack or workload.pack_sizes(options.tokens_per_pack)
    terms = (
        *_weights(shape, options, devices),
        *_sampling(shape, options, workload, devices),
        *_pass(shape, options, devices, pack),
    )
    return MemoryPlan(terms=tuple(term for term in terms if term.num_bytes))


def activation_bytes(shape: ModelShape, options: PlannedOptions) -> int:
    """Return what one layer keeps of one token for the backward pass, keys and values of attention left out.

    Per norm its input, in float32 also under autocast, and unless its weight is frozen the normalised numbers; for each
    linear map its input, under autocast a cast copy for each where weights are float32; queries, attention's output,
    and that once more in the order of tokens; of the gated unit its two inputs, the activation and the product.
    """
    hidden, inner, queries = shape.hidden_size, shape.intermediate_size, shape.query_width
    if options.dtype == "float32":
        return (16 if options.lora_rank else 24) * hidden + 12 * queries + 16 * inner
    if options.lora_rank:
        return 12 * hidden + 6 * queries + 8 * inner
    return 26 * hidden + 6 * queries + 8 * inner


def _weights(shape: ModelShape, options: PlannedOptions, devices: Devices) -> list[MemoryTerm]:
    parameters, itemsize = shape.num_parameters, options.itemsize
    parts = devices.count if options.launch == "fsdp2" else 1
    adapters = shape.adapter_parameters(options.lora_rank) if options.lora_rank else 0
    trained = adapters or parameters
    weight_bytes = itemsize if options.lora_rank else 4
    always = PHASES[1:]
    state_bytes = 2 if options.optimizer == "adamw_8bit" else 8
    in_float32 = [MemoryTerm(name="weights while loading", num_bytes=4 * parameters, phases=("loading",))]
    if options.sampler == "transformers":
        in_float32.append(
            MemoryTerm(name="sampler's copy while made", num_bytes=itemsize * parameters, phases=("loading",))
        )
    terms = [
        *in_float32,
        MemoryTerm(
            name="weights",
            num_bytes=weight_bytes * parameters // parts,
            phases=always,
            detail=f"{weight_bytes} bytes x {parameters:,}",
        ),
        MemoryTerm(name="adapters", num_bytes=4 * adapters // parts, phases=always, detail=f"4 bytes x {adapters:,}"),
        MemoryTerm(
            name="gradients",
            num_bytes=4 * trained // parts,
            phases=("training", "optimizer step"),
            detail=f"4 bytes x {trained:,}",
        ),
        MemoryTerm(
            name="optimizer states",
            num_bytes=state_bytes * trained // parts,
            phases=always,
            detail=f"{state_bytes} bytes x {trained:,}",
        ),
    ]
    largest = 4 * max(inputs * outputs for inputs, outputs in shape.linear_shapes)
    if not devices.device.is_gpu and weight_bytes < 4 and largest < KEPT_BLOCK_BYTES:
        freed = 4 * shape.num_layers * shape.layer_parameters
        terms.append(MemoryTerm(name="freed after loading, kept (CPU)", num_bytes=freed, phases=always))
    if devices.device.is_gpu and options.optimizer == "adamw":
        # torch's AdamW takes the square root of the second moments of all tensors at once on a GPU.
        terms.append(
            MemoryTerm(name="optimizer's own numbers", num_bytes=4 * trained // parts, phases=("optimizer step",))
        )
    return terms + _sharing(shape, options, trained)


def _sharing(shape: ModelShape, options: PlannedOptions, trained: int) -> list[MemoryTerm]:
    """Return what several processes need to exchange gradients and shards."""
    if options.launch == "ddp":
        phases = ("training", "optimizer step")
        return [MemoryTerm(name="gradient buckets (DDP)", num_bytes=4 * trained, phases=phases)]
    if options.launch == "single":
        return []
    # The layer at work and the next one, and the embeddings, are whole, and so are their gradients until they are
    # shared out, which is done for each pack.
    whole = 2 * shape.layer_parameters + shape.num_parameters - shape.num_layers * shape.layer_parameters
    itemsize = options.itemsize
    return [
        MemoryTerm(name="gathered shards (FSDP2)", num_bytes=itemsize * whole, phases=("training",)),
        MemoryTerm(
            name="gradients not yet shared (FSDP2)", num_bytes=itemsize * min(whole, trained), phases=("training",)
        ),
    ]


def _sampling(shape: ModelShape, options: PlannedOptions, workload: Workload, devices: Devices) -> list[MemoryTerm]:
    itemsize = options.itemsize
    per_token = shape.bytes_per_cached_token(itemsize)
    drawn = MemoryTerm(
        name="logits while sampling",
        num_bytes=options.concurrent_rollouts * shape.vocabulary * BYTES_PER_DRAWN_LOGIT,
        phases=("sampling",),
    )
    if options.sampler == "vllm":
        untied = shape.num_parameters + (shape.embedding_parameters if shape.tied else 0)
        return [
            MemoryTerm(name="vLLM's weights", num_bytes=itemsize * untied, phases=PHASES),
            MemoryTerm(
                name="vLLM's cache",
                num_bytes=options.cached_tokens * per_token,
                phases=PHASES,
                detail=f"{options.cached_tokens:,} tokens x {per_token:,} bytes",
            ),
            MemoryTerm(name="vLLM's own", num_bytes=ENGINE_BYTES if devices.device.is_gpu else 2**30, phases=PHASES),
        ]
    if options.sampler != "transformers":
        return []
    # A group's room is taken for its longest completions.
    group = workload.longest_prompt_tokens + options.rollouts_per_prompt * options.max_completion_tokens
    groups = max(options.concurrent_rollouts // options.rollouts_per_prompt, 1)
    held = min(options.cached_tokens, groups * group)
    return [
        MemoryTerm(
            name="sampler's copy",
            num_bytes=itemsize * shape.num_parameters,
            phases=PHASES[1:],
            detail=f"{itemsize} bytes x {shape.num_parameters:,}",
        ),
        MemoryTerm(
            name="sampler's cache",
            num_bytes=held * per_token,
            phases=("sampling",),
            detail=f"{held:,} tokens x {per_token:,} bytes",
        ),
        drawn,
    ]


def _pass(shape: ModelShape, options: PlannedOptions, devices: Devices, pack: PackSizes) -> list[MemoryTerm]:
    """Return what a forward and backward pass of one pack needs."""
    itemsize, layers, tokens = options.itemsize, shape.num_layers, pack.tree_tokens
    repeats = shape.num_heads // shape.num_key_value_heads
    # On GPUs FlexAttention needs no masks; else each block has a copy of the keys and values it sees.
    mask_entries = 0 if devices.device.is_gpu else pack.mask_entries
    block_keys = mask_entries // BLOCK_TOKENS
    copied = 2 * block_keys * shape.key_width * itemsize
    if devices.device.is_gpu and shape.num_heads & (shape.num_heads - 1):
        # No power of two: transformers repeats keys and values for each query head, and their gradients need both.
        copied = 2 * tokens * shape.query_width * itemsize
    per_layer = activation_bytes(shape, options) * tokens + copied
    kept_layers = 1 if options.gradient_checkpointing else layers
    residual = options.itemsize if options.lora_rank else 4
    boundaries = layers * shape.hidden_size * residual * tokens if options.gradient_checkpointing else 0
    # The last norm, in float32, and its output for the targets.
    last = (4 if options.lora_rank else 8) * shape.hidden_size * tokens + itemsize * shape.hidden_size * pack.targets
    chunk = min(pack.targets, LOGIT_CHUNK)
    mask = mask_entries * repeats * itemsize
    terms = [
        MemoryTerm(
            name="activations",
            num_bytes=per_layer * kept_layers + boundaries + last,
            phases=("training",),
            detail=f"{tokens:,} tokens; {kept_layers} of {layers} layers kept",
        ),
        MemoryTerm(
            name="logits",
            num_bytes=chunk * shape.vocabulary * BYTES_PER_LOGIT,
            phases=("training",),
            detail=f"{chunk:,} targets x {shape.vocabulary:,} x {BYTES_PER_LOGIT} bytes",
        ),
        MemoryTerm(
            name="attention masks",
            num_bytes=mask_entries + mask,
            phases=("training",),
            detail=f"{mask_entries:,} entries, {repeats} query heads for a key-value head",
        ),
    ]
    if options.dtype == "bfloat16" and not options.lora_rank and options.launch != "fsdp2":
        cast = shape.linear_parameters + shape.embedding_parameters
        terms.append(MemoryTerm(name="weights in bfloat16 (autocast)", num_bytes=2 * cast, phases=("training",)))
    return terms
