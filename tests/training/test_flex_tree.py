"""FlexAttention sees what the masks of the other way let through; on CPUs by torch's own reference of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from srl_swe.training import flex_tree
from srl_swe.training.flex_tree import BLOCK, FlexAttention, make_block_mask, sees_ancestors
from srl_swe.training.layer_masks import LayerMask
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Pack, Row, build_pack
from srl_swe.training.scorer import TreeScorer

from .test_architectures import ROWS, assert_same, gradients
from .tiny import KINDS, make_model, make_tokenizer

FULL = LayerMask(function=causal_mask_function, arguments={})
WINDOWED = LayerMask(function=sliding_window_causal_mask_function(40), arguments={})


def grown_pack(num_prompts: int = 3, prompt: int = 150, completion: int = 60) -> Pack:
    """Two steps of a trajectory for each prompt, four rollouts each."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 30, (count,), generator=generator).tolist())

    rows = []
    for _ in range(num_prompts):
        trunk = ids(prompt)
        for _ in range(2):
            rows += [Row(prompt_ids=trunk, completion_ids=ids(completion)) for _ in range(4)]
            trunk += ids(20)
    return build_pack(rows, range(len(rows)))


@contextmanager
def reference_of_flex_attention() -> Iterator[None]:
    """Run it uncompiled, with the gradients that its reference has and that torch does not offer on CPUs."""
    with (
        mock.patch.object(flex_attention, "_validate_device", lambda *_: None),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


@pytest.mark.parametrize("mask", [FULL, WINDOWED], ids=["full", "windowed"])
def test_blocks_are_those_that_torch_finds(mask: LayerMask) -> None:
    tree = FlexAttention(pack := grown_pack(), device=torch.device("cpu"), dtype=torch.float32)
    assert tree.num_padded % BLOCK == 0 and tree.num_padded > pack.num_tokens
    sees = sees_ancestors(tree._ends_T, tree._positions_T, mask)
    found = make_block_mask(sees, tree.num_padded, device=torch.device("cpu"))
    expected = create_block_mask(sees, 1, 1, tree.num_padded, tree.num_padded, device="cpu")
    assert found.to_dense().equal(expected.to_dense())
    assert found.full_kv_num_blocks.equal(expected.full_kv_num_blocks)
    for name in ("kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert getattr(found, name).equal(getattr(expected, name)), name
    assert found.sparsity() == expected.sparsity() > 40


def test_who_sees_whom_is_the_mask_of_the_other_way() -> None:
    pack = grown_pack(2, 20, 5)
    tree = FlexAttention(pack, device=torch.device("cpu"), dtype=torch.float32)
    nodes = torch.arange(tree.num_padded)
    for mask in (FULL, WINDOWED):
        sees = sees_ancestors(tree._ends_T, tree._positions_T, mask)
        seen = sees(torch.tensor(0), torch.tensor(0), nodes[:, None], nodes)
        for block in pack.attention_blocks(mask.allows):
            keys = torch.cat([torch.arange(*run) for run in block.key_runs])
            mine = seen[block.start : block.end]
            assert mine[:, keys].equal(block.mask_QK)
            assert mine.sum() == block.mask_QK.sum()
        # The padding: each token sees itself.
        assert seen[pack.num_tokens :].equal(torch.eye(tree.num_padded, dtype=torch.bool)[pack.num_tokens :])


def test_a_small_pack_has_the_length_of_two_blocks() -> None:
    """One block alone would be compiled for itself."""
    tree = FlexAttention(pack := grown_pack(1, 20, 5), device=torch.device("cpu"), dtype=torch.float32)
    assert pack.num_tokens < BLOCK and tree.num_padded == 2 * BLOCK


@pytest.mark.parametrize(("kind", "expected"), [("llama", True), ("gpt_oss", False)])
def test_a_model_with_sinks_takes_the_other_way_on_gpus(kind: str, expected: bool) -> None:
    model = make_model(kind)
    with mock.patch.object(type(model), "device", torch.device("cuda")):
        assert TreeScorer(model, torch.bfloat16).by_flex == expected
        assert TreeScorer(model, torch.bfloat16, attention="flex").by_flex
        assert not TreeScorer(model, torch.bfloat16, attention="sdpa").by_flex
    assert not TreeScorer(model, torch.bfloat16).by_flex


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs by a C++ compiler")
def test_compiled_it_gives_the_same_log_probabilities() -> None:
    """With caps on scores and windows. On CPUs torch compiles the forward pass alone, and for one length."""
    model = make_model("gemma2", head_width=32, max_position_embeddings=4096, sliding_window=40)
    policy = Policy(model, make_tokenizer(), source="gemma2", attention="sdpa")
    pack = grown_pack()
    torch.compiler.reset()
    with torch.no_grad():
        (found,) = TreeScorer(model, torch.float32, attention="flex")(pack)
        torch.testing.assert_close(found, policy.logprobs(pack), rtol=1e-5, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers how many entries the largest tensor had that any operation gave."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.entries = max(self.entries, result.numel())
        return result


def test_no_mask_of_all_pairs_is_made() -> None:
    pack = grown_pack(num_prompts=12)
    tree = FlexAttention(pack, device=torch.device("cpu"), dtype=torch.float32)
    with LargestTensor() as largest:
        sees = sees_ancestors(tree._ends_T, tree._positions_T, WINDOWED)
        make_block_mask(sees, tree.num_padded, device=torch.device("cpu"))
    assert largest.entries <= BLOCK * tree.num_padded < tree.num_padded**2 / 60


# FlexAttention knows sinks on GPUs alone; half of gpt_oss's numbers would be missing here.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_oss"])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(rows=ROWS)
def test_flex_gives_the_log_probabilities_and_gradients_of_sdpa(kind: str, rows: list[Row]) -> None:
    model = make_model(kind)
    policy = Policy(model, make_tokenizer(), source=kind, attention="sdpa")
    pack = build_pack(rows, range(len(rows)))
    expected = policy.logprobs(pack)
    expected.sum().backward()
    expected_grads = gradients(model)
    with mock.patch.object(flex_tree, "BLOCK", 16), reference_of_flex_attention():
        (found,) = TreeScorer(model, torch.float32, attention="flex")(pack)
        found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert_same(gradients(model), expected_grads)
