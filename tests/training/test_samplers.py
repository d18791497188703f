from typing import Any
from unittest import mock

import pytest
import torch

from srl_swe.errors import SamplerError
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion, mix_seed
from srl_swe.training.shared_prompt import Slot
from srl_swe.training.transformers_sampler import TransformersSampler, draw
from srl_swe.training.vllm_sampler import _bytes_per_cached_token

from .tiny import make_model, make_tokenizer

PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 11, 12, 13, 14], [2, 2, 2]]


@pytest.fixture(params=["llama", "qwen2", "gemma2", "gemma3_text", "gpt_oss"])
def policy(request: pytest.FixtureRequest) -> Policy:
    policy = Policy(make_model(request.param), make_tokenizer(), source=request.param)
    # More ways to stop, so that rollouts of one prompt end at different times.
    policy.stop_ids |= {0, 5, 9, 17}
    return policy


def make_sampler(policy: Policy, *, cached_tokens: int = 1000, concurrent_rollouts: int = 64) -> TransformersSampler:
    return TransformersSampler(policy, cached_tokens=cached_tokens, concurrent_rollouts=concurrent_rollouts)


def sample(sampler: TransformersSampler, *, temperature: float = 1.0, seed: int = 3) -> list[list[SampledCompletion]]:
    return sampler.sample(PROMPTS, num_rollouts=3, max_completion_tokens=9, temperature=temperature, seed=seed)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_are_those_of_a_full_forward_pass(policy: Policy, temperature: float) -> None:
    assert_logprobs_of_a_full_pass(policy, temperature)


OTHER_WIDTHS: dict[str, dict[str, Any]] = {
    # No num_key_value_heads in their configs.
    "gpt_neox": {}, "gpt2": {"n_positions": 256}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    # Keys and values of different widths.
    "deepseek_v2": {"q_lora_rank": 16}, "deepseek_v3": {"q_lora_rank": 16, "n_group": 2, "topk_group": 2},
}  # fmt: skip
MLA: dict[str, Any] = {
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 4, "head_dim": 8,
    "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
}  # fmt: skip


def policy_of_other_widths(kind: str) -> Policy:
    options = OTHER_WIDTHS[kind] | (MLA if kind.startswith("deepseek") else {})
    model = make_model(kind, **options)
    for name in () if kind.startswith("deepseek") else ("num_key_value_heads", "head_dim"):
        delattr(model.config, name)  # make_model gives them to every config; these do not know them
    return Policy(model, make_tokenizer(), source=kind)


@pytest.mark.parametrize("kind", OTHER_WIDTHS)
def test_the_cache_is_as_wide_as_the_layers_keys_and_values(kind: str) -> None:
    policy = policy_of_other_widths(kind)
    policy.stop_ids |= {0, 5, 9, 17}
    assert_logprobs_of_a_full_pass(policy, 1.0)


def test_vllms_cache_is_sized_by_query_heads_where_there_are_no_others() -> None:
    neox = policy_of_other_widths("gpt_neox")
    shared = Policy(make_model("llama"), make_tokenizer(), source="llama")
    # Keys and values of two layers, eight numbers of four bytes in each head.
    assert _bytes_per_cached_token(neox) == 2 * 2 * 4 * 8 * 4
    assert _bytes_per_cached_token(shared) == 2 * 2 * 2 * 8 * 4


def test_a_prefill_makes_one_mask_for_all_layers_of_a_kind() -> None:
    kinds = ["sliding_attention", "full_attention"] * 3
    model = make_model("gemma2", num_hidden_layers=6, layer_types=kinds)
    sampler = make_sampler(Policy(model, make_tokenizer(), source="gemma2"))
    with mock.patch.object(Slot, "_new_bias", autospec=True, side_effect=Slot._new_bias) as made:
        sampler.sample(PROMPTS[:1], num_rollouts=2, max_completion_tokens=1, temperature=1.0, seed=0)
    assert made.call_count == 2


def assert_logprobs_of_a_full_pass(policy: Policy, temperature: float) -> None:
    lengths = set()
    for prompt, completions in zip(PROMPTS, sample(make_sampler(policy), temperature=temperature), strict=True):
        assert len(completions) == 3
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion.ids]])
            logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / (temperature or 1.0)
            expected = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)
            if temperature == 0:
                assert logits.argmax(-1).tolist() == list(completion.ids)
            lengths.add(len(completion.ids))
    assert temperature == 0 or len(lengths) > 1


def test_stop_reasons_and_texts(policy: Policy) -> None:
    completions = [c for group in sample(make_sampler(policy)) for c in group]
    assert {c.stop_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        stopped = completion.ids[-1] in policy.stop_ids
        assert completion.stop_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.ids) == 9
        assert not any(token in policy.stop_ids for token in completion.ids[:-1])
        assert "<|im_end|>" not in completion.text


@pytest.mark.parametrize(("cached_tokens", "concurrent_rollouts"), [(1000, 3), (40, 64), (70, 7)])
def test_batching_does_not_change_what_is_drawn(policy: Policy, cached_tokens: int, concurrent_rollouts: int) -> None:
    small = make_sampler(policy, cached_tokens=cached_tokens, concurrent_rollouts=concurrent_rollouts)
    for ours, theirs in zip(sample(small), sample(make_sampler(policy)), strict=True):
        assert [c.ids for c in ours] == [c.ids for c in theirs]


def test_deterministic_by_seed(policy: Policy) -> None:
    sampler = make_sampler(policy)
    assert sample(sampler) == sample(sampler)
    assert sample(sampler) != sample(sampler, seed=4)


def test_with_a_seed_of_its_own_a_prompt_draws_the_same_in_any_company(policy: Policy) -> None:
    options = {"num_rollouts": 3, "max_completion_tokens": 9, "temperature": 1.0}
    sampler = make_sampler(policy)
    together = sampler.sample(PROMPTS, seed=[11, 12, 13, 14], **options)
    for prompt, seed, completions in zip(PROMPTS, (11, 12, 13, 14), together, strict=True):
        assert [c.ids for c in sampler.sample([prompt], seed=[seed], **options)[0]] == [c.ids for c in completions]
    # One seed stands for the mix with each place.
    mixed = sampler.sample(PROMPTS, seed=[mix_seed(3, place) for place in range(4)], **options)
    assert mixed == sample(sampler)


def test_sampler_follows_the_policy_only_when_told(policy: Policy) -> None:
    sampler = make_sampler(policy)
    before = sample(sampler, temperature=0.0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    assert sample(sampler, temperature=0.0) == before
    sampler.update_weights(policy)
    assert sample(sampler, temperature=0.0) != before
    assert sample(sampler, temperature=0.0) == sample(make_sampler(policy), temperature=0.0)


def test_a_prompt_that_does_not_fit_is_an_error(policy: Policy) -> None:
    with pytest.raises(SamplerError, match=r"prompt 2 .8 tokens.*cached_tokens = 34"):
        sample(make_sampler(policy, cached_tokens=34))


def test_progress_is_told_per_prompt(policy: Policy) -> None:
    done: list[None] = []
    make_sampler(policy).sample(
        PROMPTS,
        num_rollouts=2,
        max_completion_tokens=3,
        temperature=1.0,
        seed=0,
        on_prompt_done=lambda: done.append(None),
    )
    assert len(done) == len(PROMPTS)


def test_draw_by_hand() -> None:
    # Probabilities 0.5, 0.25, 0.25: the borders lie at 0.5 and 0.75.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log().repeat(5, 1)
    tokens, logprobs = draw(logits, torch.tensor([0.0, 0.49, 0.51, 0.76, 1.0], dtype=torch.float64), 1.0)
    assert tokens.tolist() == [0, 0, 1, 2, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25])
    # At temperature 0.5 the probabilities are squared: 4/6, 1/6, 1/6.
    tokens, logprobs = draw(logits[:1], torch.tensor([0.66], dtype=torch.float64), 0.5)
    assert tokens.tolist() == [0]
    assert logprobs.exp().tolist() == pytest.approx([4 / 6])


def test_draw_never_takes_what_has_no_probability() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -1e9]]).clamp(min=-1e9)
    for uniform in (0.0, 0.5, 1.0):
        assert draw(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)[0].tolist() == [1]


def test_draw_follows_the_distribution() -> None:
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(20_000, 1)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shares = draw(logits, uniforms, 1.0)[0].bincount(minlength=8) / 20_000
    assert torch.allclose(shares, logits[0].softmax(-1), atol=0.015)


def test_broken_logits_are_an_error() -> None:
    with pytest.raises(SamplerError, match="not finite"):
        draw(torch.tensor([[0.0, torch.nan]]), torch.tensor([0.5], dtype=torch.float64), 1.0)


def test_seeds_mix() -> None:
    assert len({mix_seed(seed, index) for seed in range(50) for index in range(50)}) == 2500
    assert all(0 <= mix_seed(seed, 2**40) < 2**63 for seed in range(50))
