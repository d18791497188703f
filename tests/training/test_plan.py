"""Plans against what is there: parameters of real models, tensors that a forward pass keeps, packs, checkpoints."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from srl_swe.demo.model import model_dir
from srl_swe.errors import ConfigError, ModelError
from srl_swe.training import plan_memory as memory_module
from srl_swe.training import plan_workload, prefix_tree, scorer
from srl_swe.training.checkpoint import TrainState, save_best, save_checkpoint
from srl_swe.training.config import TrainConfig
from srl_swe.training.optimizers import make_optimizer
from srl_swe.training.plan import Given, candidates, launch_line, make_plan
from srl_swe.training.plan_devices import GIB, Devices, parse_devices, processor
from srl_swe.training.plan_disk import plan_disk
from srl_swe.training.plan_memory import activation_bytes, plan_memory
from srl_swe.training.plan_model import PUBLISHED, find_shape, shape_of_config
from srl_swe.training.plan_options import PlannedOptions
from srl_swe.training.plan_time import plan_time, training_flops
from srl_swe.training.plan_workload import PackSizes, Workload, make_workload
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Pack, Row, build_pack
from srl_swe.training.processes import Processes
from srl_swe.training.weights import adapter_weights, add_adapters
from tests.training.tiny import DOMAIN, make_model, make_tokenizer, write_model

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
OPTIONS = PlannedOptions(
    method="srl", dtype="bfloat16", tokens_per_pack=8192, gradient_checkpointing=False, lora_rank=None,
    optimizer="adamw", sampler="transformers", launch="single", cached_tokens=131_072, concurrent_rollouts=64,
    rollouts_per_prompt=8, max_prompt_tokens=4096, max_completion_tokens=1024, keep_checkpoints=2, validate_every=10,
    validation_examples=650,
)  # fmt: skip
WORKLOAD = make_workload(
    prompt_sizes=[2000] * 512, trunk_tokens=900_000, completion_sizes=[200] * 512, rollouts_per_prompt=8,
    num_steps=134_000, num_dropped=0, how="made up",
)  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=16)),
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)),
        lambda: MistralForCausalLM(MistralConfig(**SIZES)),
        lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
        lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    ],
    ids=["llama tied", "llama with biases", "mistral", "qwen2", "qwen3"],
)
def test_parameters_are_those_of_the_model_that_transformers_makes(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    model.config.save_pretrained(tmp_path)
    assert find_shape(str(tmp_path)).num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.model
def test_parameters_are_those_in_the_files_of_a_real_model() -> None:
    with safe_open(model_dir() / "model.safetensors", framework="pt") as file:
        found = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    shape = find_shape(str(model_dir()))
    assert shape.num_parameters == found == 134_515_008
    # The built-in sizes are those of the folder.
    built_in = find_shape("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert replace(built_in, name=shape.name, source=shape.source) == shape


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", 0.494), ("Qwen/Qwen2.5-Coder-1.5B", 1.54), ("Qwen/Qwen2.5-3B", 3.09),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 7.616), ("Qwen/Qwen2.5-Coder-14B-Instruct", 14.77),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", 32.76), ("Qwen/Qwen3-0.6B", 0.596), ("Qwen/Qwen3-1.7B", 1.72),
        ("Qwen/Qwen3-4B", 4.02), ("Qwen/Qwen3-8B", 8.19), ("Qwen/Qwen3-14B", 14.77), ("Qwen/Qwen3-32B", 32.76),
        ("HuggingFaceTB/SmolLM2-360M", 0.362), ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.711),
        ("meta-llama/Llama-3.2-1B-Instruct", 1.236), ("meta-llama/Llama-3.2-3B", 3.213),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", 8.03), ("meta-llama/Llama-3.1-70B", 70.55),
    ],
)  # fmt: skip
def test_built_in_sizes_give_the_published_numbers_of_parameters(name: str, billions: float) -> None:
    assert find_shape(name).num_parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_adapters_are_those_that_peft_adds() -> None:
    model = make_model("qwen2")
    shape = shape_of_config(json.loads(model.config.to_json_string()), name="m", source="m")
    add_adapters(model, rank=3, alpha=6, seed=0)
    tensors = dict(adapter_weights(model)).values()
    assert shape.adapter_parameters(3) == sum(tensor.numel() for tensor in tensors)
    assert {tensor.element_size() for tensor in tensors} == {4}


def test_what_is_no_known_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"hf download some/model config\.json"):
        find_shape("some/model")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find_shape(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ModelError, match="model_type 'mamba' is not known"):
        find_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED["qwen2.5-7b"], "hidden_size": "large"}))
    with pytest.raises(ModelError, match=r"hidden_size must be an integer of at least 1, found 'large'"):
        find_shape(str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        find_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "count", "gib"),
    [("8xH100", 8, 80), ("h200", 1, 141), ("4xA100-40GB", 4, 40), ("1x24GB", 1, 24), ("2xRTX4090", 2, 24)],
)
def test_devices_are_read(text: str, count: int, gib: int) -> None:
    devices = parse_devices(text)
    assert (devices.count, devices.device.memory_bytes) == (count, gib * GIB)


def test_this_machine_is_a_device() -> None:
    assert not parse_devices("cpu").device.is_gpu
    assert parse_devices("cpu").device.memory_bytes > GIB


@pytest.mark.parametrize("text", ["8xB9000", "many", "0xH100", "8x", ""])
def test_unknown_devices_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="H100"):
        parse_devices(text)


def test_a_workload_is_what_its_example_says() -> None:
    workload = make_workload(
        prompt_sizes=[10, 10], trunk_tokens=15, completion_sizes=[2, 4], rollouts_per_prompt=2, num_steps=5,
        num_dropped=0, how="",
    )  # fmt: skip
    assert (workload.row_tokens, workload.tree_tokens, workload.completion_tokens) == (52, 27, 12)
    assert workload.iterations_per_epoch == 3
    # Trunk: two prompts of 10 * 10 / 2 pairs, three quarters of them once. Branches: 2 * 2 * 11 + 2 * 4 * 12.
    assert workload.attended_tokens == pytest.approx((75 + 44 + 96) / 27)


def grown_pack(num_prompts: int = 3, prompt: int = 500, completion: int = 60, rollouts: int = 4) -> Pack:
    """Groups whose prompts and completions share nothing that they need not."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(num_prompts):
        prompt_ids = tuple(torch.randint(0, 30, (prompt,), generator=generator).tolist())
        for _ in range(rollouts):
            completion_ids = tuple(torch.randint(0, 30, (completion,), generator=generator).tolist())
            rows.append(Row(prompt_ids=prompt_ids, completion_ids=completion_ids))
    return build_pack(rows, range(len(rows)))


def sizes_of(pack: Pack) -> PackSizes:
    return PackSizes(
        tree_tokens=pack.num_tokens,
        targets=len(pack.target_nodes_N),
        mask_entries=sum(block.mask_QK.numel() for block in pack.attention_blocks()),
    )


def test_mask_entries_follow_from_lengths() -> None:
    pack = grown_pack()
    workload = make_workload(
        prompt_sizes=[500] * 3, trunk_tokens=1500, completion_sizes=[60] * 3, rollouts_per_prompt=4, num_steps=3,
        num_dropped=0, how="",
    )  # fmt: skip
    planned = workload.pack_sizes(10**6)
    assert planned.tree_tokens == pytest.approx(pack.num_tokens, rel=0.02)
    assert planned.targets == pytest.approx(len(pack.target_nodes_N), rel=0.02)
    assert planned.mask_entries == pytest.approx(sizes_of(pack).mask_entries, rel=0.25)


def test_sizes_that_are_repeated_here_are_those_of_the_code() -> None:
    assert memory_module.LOGIT_CHUNK == scorer.LOGIT_CHUNK
    assert memory_module.BLOCK_TOKENS == plan_workload.BLOCK_TOKENS == prefix_tree.BLOCK_TOKENS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("recomputed", [False, True])
def test_activations_are_the_tensors_that_a_forward_pass_keeps(dtype: str, rank: int | None, recomputed: bool) -> None:
    """Counted at autograd's own door: every storage once, weights left out."""
    tokenizer = make_tokenizer()
    sizes = {"intermediate_size": 320, "num_hidden_layers": 6, "max_position_embeddings": 1024}
    model = make_model("llama", vocab_size=len(tokenizer), head_width=32, **sizes)
    shape = shape_of_config(json.loads(model.config.to_json_string()), name="m", source="m")
    policy = Policy(model, tokenizer, source="m", compute_dtype=getattr(torch, dtype))
    if rank:
        model.to(policy.compute_dtype)
        add_adapters(model, rank=rank, alpha=8, seed=0)
    if recomputed:
        policy.enable_gradient_checkpointing()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def pack_tensor(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)
        return tensor

    pack = grown_pack()
    with torch.autograd.graph.saved_tensors_hooks(pack_tensor, lambda tensor: tensor):
        policy.logprobs(pack)
    found = sum(nbytes for nbytes, _ in kept.values())
    options = replace(OPTIONS, dtype=dtype, lora_rank=rank, gradient_checkpointing=recomputed)
    planned = plan_memory(shape, options, WORKLOAD, CPU, pack=sizes_of(pack))
    terms = {term.name: term.num_bytes for term in planned.terms}
    if recomputed:  # the one layer that is recomputed is kept in the backward pass only
        block_keys = sizes_of(pack).mask_entries // prefix_tree.BLOCK_TOKENS
        layer = activation_bytes(shape, options) * pack.num_tokens
        expected = terms["activations"] - layer - 2 * block_keys * shape.key_width * options.itemsize
    else:
        masks = sizes_of(pack).mask_entries * 2 * options.itemsize
        casts = terms.get("weights in bfloat16 (autocast)", 0)
        expected = terms["activations"] + masks + casts
    assert expected == pytest.approx(found, rel=0.05)


CPU = Devices(device=processor(cores=2, memory_bytes=16 * GIB), count=1)


def test_weights_gradients_and_states_are_sixteen_bytes_of_a_parameter() -> None:
    shape = find_shape("Qwen2.5-0.5B")
    terms = {t.name: t.num_bytes for t in plan_memory(shape, OPTIONS, WORKLOAD, CPU).terms}
    assert terms["weights"] + terms["gradients"] + terms["optimizer states"] == 16 * shape.num_parameters
    sharded = replace(OPTIONS, launch="fsdp2")
    terms = {t.name: t.num_bytes for t in plan_memory(shape, sharded, WORKLOAD, parse_devices("4xH100")).terms}
    total = terms["weights"] + terms["gradients"] + terms["optimizer states"]
    assert total == pytest.approx(4 * shape.num_parameters, rel=1e-6)
    assert terms["sampler's copy"] == 2 * shape.num_parameters


@pytest.mark.parametrize(("model", "copied_width"), [("Qwen2.5-7B", 28 * 128), ("Qwen2.5-3B", 0)])
def test_on_gpus_keys_and_values_are_copied_where_query_heads_are_no_power_of_two(
    model: str, copied_width: int
) -> None:
    """transformers repeats them for FlexAttention: one copy of each for each query head, in each layer that is kept."""
    shape, pack = find_shape(model), PackSizes(tree_tokens=1000, targets=1, mask_entries=0)
    for options, layers in (OPTIONS, shape.num_layers), (replace(OPTIONS, gradient_checkpointing=True), 1):
        plans = (plan_memory(shape, options, WORKLOAD, d, pack=pack) for d in (CPU, parse_devices("1xH100")))
        without, found = (next(t.num_bytes for t in plan.terms if t.name == "activations") for plan in plans)
        assert found - without == layers * 2 * 1000 * copied_width * options.itemsize


def test_checkpoints_are_as_large_as_planned(tmp_path: Path) -> None:
    policy = Policy.from_pretrained(write_model(tmp_path / "m", intermediate_size=2048, num_hidden_layers=4))
    shape = find_shape(str(tmp_path / "m"))
    optimizer = make_optimizer(TrainConfig(model="m", output=tmp_path), policy.model)
    policy.logprobs(grown_pack(1, 20, 5, 2)).sum().backward()
    optimizer.step()
    processes = Processes(Accelerator(cpu=True))
    state = TrainState(iteration=1)
    save_checkpoint(tmp_path, state, policy=policy, domain=DOMAIN, optimizer=optimizer, keep=2, processes=processes)
    save_best(tmp_path, 1, {}, policy=policy, domain=DOMAIN, processes=processes)
    planned = plan_disk(shape, replace(OPTIONS, dtype="float32"))
    found = {
        name: sum(path.stat().st_size for path in (tmp_path / name).resolve().iterdir()) for name in ("last", "best")
    }
    assert planned.checkpoint_bytes == pytest.approx(found["last"], rel=0.05)
    assert planned.best_bytes == pytest.approx(found["best"], rel=0.05)
    assert planned.total_bytes == 3 * planned.checkpoint_bytes + planned.best_bytes


def test_operations_of_a_dense_pass_are_six_per_weight_and_token() -> None:
    shape = find_shape("Qwen2.5-7B")
    pack = PackSizes(tree_tokens=1000, targets=1, mask_entries=0)
    assert training_flops(shape, OPTIONS, pack) == pytest.approx(6e3 * shape.linear_parameters, rel=0.01)
    again = replace(OPTIONS, gradient_checkpointing=True)
    assert training_flops(shape, again, pack) == pytest.approx(8e3 * shape.linear_parameters, rel=0.01)


def test_twice_the_devices_take_half_the_time() -> None:
    shape = find_shape("Qwen2.5-0.5B")
    one = plan_time(shape, OPTIONS, WORKLOAD, parse_devices("1xH100"), kept_share=0.5)
    two = plan_time(shape, replace(OPTIONS, launch="ddp"), WORKLOAD, parse_devices("2xH100"), kept_share=0.5)
    assert two.iteration_s == pytest.approx(one.iteration_s / 2, rel=0.02)
    assert plan_time(shape, OPTIONS, WORKLOAD, parse_devices("1xH100"), kept_share=1.0).sampling_s < one.sampling_s


def planned(model: str, gpus: str, **given: Any) -> Any:
    return make_plan(find_shape(model), WORKLOAD, parse_devices(gpus), OPTIONS, Given(**given), kept_share=0.5)


def test_the_papers_model_fits_eight_gpus_by_shards() -> None:
    plan = planned("Qwen2.5-Coder-7B-Instruct", "8xH100")
    assert plan.fits
    assert (plan.options.launch, plan.options.lora_rank) == ("fsdp2", None)
    line = launch_line(plan, parse_devices("8xH100"), "--data steps")
    assert line.startswith("accelerate launch --use_fsdp --fsdp_version 2")
    assert "--num_processes 8" in line


def test_a_small_model_keeps_all_weights_and_whole_copies() -> None:
    plan = planned("Qwen2.5-0.5B", "2xH100")
    assert plan.fits
    assert (plan.options.launch, plan.options.lora_rank, plan.options.optimizer) == ("ddp", None, "adamw")
    assert planned("Qwen2.5-0.5B", "1xH100").options.sampler == "vllm"


def test_adapters_are_proposed_where_all_weights_do_not_fit() -> None:
    plan = planned("Qwen2.5-1.5B", "1x24GB")
    assert plan.fits
    assert plan.options.lora_rank == 16


def test_nothing_fits_is_said() -> None:
    plan = planned("Qwen2.5-32B", "1x24GB")
    assert not plan.fits
    assert plan.memory.peak_bytes > plan.options.itemsize * 32e9


def test_what_is_given_stays() -> None:
    given = Given(tokens_per_pack=6000, gradient_checkpointing=True, lora_rank=8, optimizer="adamw", sampler="vllm")
    found = list(candidates(OPTIONS, given, parse_devices("1xH100")))
    assert found
    for options in found:
        assert (options.tokens_per_pack, options.gradient_checkpointing, options.lora_rank) == (6000, True, 8)
        assert (options.optimizer, options.sampler) == ("adamw", "vllm")


def test_more_memory_is_never_worse() -> None:
    small: Workload = WORKLOAD
    shape = find_shape("Qwen2.5-1.5B")
    for gpus in ("1x24GB", "1x48GB", "1x80GB"):
        plan = make_plan(shape, small, parse_devices(gpus), OPTIONS, Given(), kept_share=0.5)
        assert plan.memory.peak_bytes <= parse_devices(gpus).device.usable_bytes or not plan.fits


def test_of_alike_ways_the_fastest_that_fits_is_taken() -> None:
    plan = planned("Qwen2.5-7B", "1xH100")
    assert plan.fits
    shape, devices = find_shape("Qwen2.5-7B"), parse_devices("1xH100")
    for options in candidates(OPTIONS, Given(), devices):
        alike = (options.lora_rank, options.optimizer) == (plan.options.lora_rank, plan.options.optimizer)
        fits = plan_memory(shape, options, WORKLOAD, devices).peak_bytes <= devices.device.usable_bytes
        if alike and fits:
            other = plan_time(shape, options, WORKLOAD, devices, kept_share=0.5)
            assert other.iteration_s >= plan.time.iteration_s
        if options.lora_rank is None:
            assert not fits  # else all weights would be trained
