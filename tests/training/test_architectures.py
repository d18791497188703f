"""A packed tree gives the loss and every gradient that the rows give one by one, by the model's own eager attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig, Qwen3NextConfig

from srl_swe.errors import ModelError
from srl_swe.training import prefix_tree
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, build_pack, pack_rows
from srl_swe.training.trainer import train
from srl_swe.training.update import gather_rows

from .run_tiny import tiny_config
from .tiny import DOMAIN, KINDS, make_examples, make_model, make_tokenizer, write_model

# Few different tokens, so that prefixes are shared at every depth, prompts inside completions included.
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


@st.composite
def trajectories(draw: st.DrawFn) -> list[Row]:
    """Groups at successive steps: each prompt goes on from the one before."""
    rows, prompt = [], draw(TOKENS)
    for _ in range(draw(st.integers(1, 3))):
        rows += [Row(prompt_ids=prompt, completion_ids=draw(TOKENS)) for _ in range(draw(st.integers(1, 3)))]
        prompt += draw(TOKENS)
    return rows


ROWS = st.lists(st.builds(Row, prompt_ids=TOKENS, completion_ids=TOKENS), min_size=1, max_size=7) | trajectories()
POLICIES: dict[str, tuple[Policy, Any]] = {}


def policy_and_rows_model(kind: str) -> tuple[Policy, Any]:
    """Return the policy, and a model with the same weights that transformers' eager attention serves."""
    if kind not in POLICIES:
        policy = Policy(make_model(kind), make_tokenizer(), source=kind)
        POLICIES[kind] = policy, make_model(kind, attention="eager")
    return POLICIES[kind]


@contextmanager
def recomputing(policy: Policy, wanted: bool) -> Iterator[None]:
    if wanted:
        policy.enable_gradient_checkpointing()
    try:
        yield
    finally:
        policy.model.gradient_checkpointing_disable()
        policy.model.eval()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Take the gradients out of a model."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def in_rows(model: Any, rows: list[Row], weights: list[float]) -> float:
    """Backpropagate through a weighted sum of log-probabilities, row by row."""
    total = 0.0
    for row, weight in zip(rows, weights, strict=True):
        ids = torch.tensor([row.token_ids])
        logprobs = (model(input_ids=ids).logits[0] / 0.7).log_softmax(-1)
        start = len(row.prompt_ids)
        loss = weight * logprobs[start - 1 : -1].gather(1, ids[0, start:, None]).sum()
        loss.backward()
        total += float(loss.detach())
    return total


def in_trees(policy: Policy, rows: list[Row], weights: list[float], budget: int) -> float:
    """The same in packs of token trees."""
    total = 0.0
    for pack in pack_rows(rows, range(len(rows)), tokens_per_pack=budget):
        rows_SL = gather_rows(policy.logprobs(pack, temperature=0.7), pack)
        weight_S1 = torch.tensor([[weights[index]] for index in pack.row_indices])
        loss = (rows_SL * weight_S1)[pack.mask_SL].sum()
        loss.backward()
        total += float(loss.detach())
    return total


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare gradients: each within 1e-5 of its own size, or of the largest of all where it all but vanishes."""
    assert found.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        error = float((found[name] - grad).abs().max())
        assert error <= 1e-5 * max(float(grad.abs().max()), 0.1 * largest), name


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, derandomize=True)  # else a rare cancellation would fail by rounding alone
@given(
    rows=ROWS, budget=st.integers(12, 60), block_tokens=st.integers(1, 12), gap=st.integers(1, 4), again=st.booleans()
)
def test_tree_gives_the_loss_and_gradients_of_rows(
    kind: str, rows: list[Row], budget: int, block_tokens: int, gap: int, again: bool
) -> None:
    policy, rows_model = policy_and_rows_model(kind)
    weights = torch.randn(len(rows), generator=torch.Generator().manual_seed(budget)).tolist()
    with (
        mock.patch.object(prefix_tree, "MAX_KEY_GAP", gap),
        mock.patch.object(prefix_tree, "BLOCK_TOKENS", block_tokens),
        recomputing(policy, again),
    ):
        tree_loss = in_trees(policy, rows, weights, budget)
    row_loss = in_rows(rows_model, rows, weights)
    assert tree_loss == pytest.approx(row_loss, rel=1e-5, abs=1e-5)
    assert_same(gradients(policy.model), gradients(rows_model))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_tree_the_model_is_its_eager_self(kind: str) -> None:
    policy, rows_model = policy_and_rows_model(kind)
    ids = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(policy.model(input_ids=ids).logits, rows_model(input_ids=ids).logits)


SMALL = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": 31, "pad_token_id": None}
OTHERS = {
    "state space": MambaConfig(**SMALL, state_size=4, initializer_range=0.3),
    "hybrid": Qwen3NextConfig(
        **SMALL, layer_types=["linear_attention", "full_attention"], num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, intermediate_size=32,
        shared_expert_intermediate_size=16, linear_num_value_heads=4, linear_num_key_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, initializer_range=0.3,
    ),
    "positions in the mask": BloomConfig(**SMALL, n_head=4, initializer_range=0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_a_tree_would_mislead_is_refused(name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[name], dtype=torch.float32).eval()
    with pytest.raises(ModelError, match=r"packed t.*Use a decoder-only model whose layers all have masked attention"):
        Policy(model, make_tokenizer(), source=name)


def test_a_window_is_of_positions_and_not_of_places_in_the_pack() -> None:
    """The second branch lies further from the trunk than the window, and sees it all the same."""
    policy, rows_model = policy_and_rows_model("mistral")
    rows = [Row(prompt_ids=(1, 2, 3), completion_ids=tuple([token] * 8)) for token in (4, 5)]
    pack = build_pack(rows, range(2))
    (block,) = pack.attention_blocks(lambda query, key: key > query - 3)
    assert block.mask_QK[11].nonzero().flatten().tolist() == [1, 2, 11]
    assert in_trees(policy, rows, [1.0, 1.0], 99) == pytest.approx(in_rows(rows_model, rows, [1.0, 1.0]), rel=1e-5)
    assert_same(gradients(policy.model), gradients(rows_model))


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_a_run_trains_a_model_of_this_kind(kind: str, tmp_path: Path) -> None:
    """Sampling, training, validation and checkpoints; the model folder that is left loads again."""
    model = write_model(tmp_path / "model", kind=kind)
    config = tiny_config(model, tmp_path / "run", "srl", num_iterations=2, tokens_per_pack=96)
    result = train(config, make_examples(8), make_examples(2, prefix="v"), DOMAIN)
    assert result.iterations == 2
    trained, before = Policy.from_pretrained(result.last_model), Policy.from_pretrained(model)
    assert type(trained.model) is type(before.model)
    changed = [name for name, tensor in trained.weights() if not tensor.equal(before.model.state_dict()[name])]
    assert len(changed) > 10
