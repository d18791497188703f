import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from srl_swe.errors import ModelError
from srl_swe.training.policy import Policy
from srl_swe.training.prefix_tree import Row, build_pack
from srl_swe.training.scorer import LOGIT_CHUNK

from .tiny import make_model, make_tokenizer


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        Policy.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(model_copy: Path, name: str) -> None:
    (model_copy / name).unlink()
    with pytest.raises(ModelError, match=r"lacks .*" + name.removeprefix("model")):
        Policy.from_pretrained(model_copy)


def test_missing_chat_template(model_copy: Path) -> None:
    (model_copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        Policy.from_pretrained(model_copy)


def test_damaged_files(model_copy: Path) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        Policy.from_pretrained(model_copy)
    (model_copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        Policy.from_pretrained(model_copy)


def test_missing_weights_are_not_made_up(model_copy: Path) -> None:
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"layers\.2"):
        Policy.from_pretrained(model_copy)


def test_architecture_that_scales_logits_is_refused() -> None:
    model = make_model()
    model.lm_head.forward = lambda hidden: torch.nn.functional.linear(hidden, model.lm_head.weight)  # type: ignore[union-attr,arg-type]
    original = model.forward

    def scaled(**options: object) -> object:
        output = original(**options)
        output.logits = output.logits / 2
        return output

    model.forward = scaled
    with pytest.raises(ModelError, match="does not give the same log-probabilities"):
        Policy(model, make_tokenizer(), source="scaled")


def test_prompt_and_completion_fit_together(tiny_policy: Policy) -> None:
    messages = [{"role": "user", "content": "say a"}]
    prompt, completion = tiny_policy.encode_prompt(messages), tiny_policy.encode_completion("hm|aa")
    whole = tiny_policy.tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": "hm|aa"}], return_dict=False
    )
    assert prompt + completion == whole
    assert completion[-1] == tiny_policy.end_of_turn_id == tiny_policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tiny_policy.decode_completion(completion) == "hm|aa"
    assert tiny_policy.decode_completion(completion[:-1]) == "hm|aa"
    # A special token in the middle is not hidden from the parser.
    assert tiny_policy.decode_completion([*completion, *completion]) == "hm|aa<|im_end|>hm|aa"


def test_a_sliding_window_does_not_end_the_context() -> None:
    assert Policy(make_model("mistral"), make_tokenizer(), source="window").max_context == 256


def test_a_longrope_models_rows_end_where_its_factors_change() -> None:
    """Beyond, the longest row of a pass decides on the factors of all."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    options: dict[str, Any] = {"rope_parameters": rope, "original_max_position_embeddings": 64}
    policy = Policy(make_model("phi3", **options), make_tokenizer(), source="longrope")
    assert policy.max_context == 64
    short = Row(prompt_ids=(1, 2), completion_ids=(3, 4, 5))
    alone = policy.logprobs(build_pack([short], [0])).detach()
    for length, same in ((64, True), (65, False)):
        # What begins with 9 comes last in a pack.
        pack = build_pack([short, Row(prompt_ids=(9,) * (length - 1), completion_ids=(9,))], range(2))
        assert torch.allclose(policy.logprobs(pack)[:3], alone, atol=1e-4) == same
    config = policy.model.config
    config.rope_parameters = {"full_attention": rope, "sliding_attention": {"rope_type": "default"}}
    assert policy.max_context == 64
    config.rope_parameters = {"full_attention": {"rope_type": "default"}}
    assert policy.max_context == 256


def test_save_and_load(tiny_policy: Policy, tmp_path: Path) -> None:
    tiny_policy.save(tmp_path)
    again = Policy.from_pretrained(tmp_path)
    for (name, ours), theirs in zip(tiny_policy.model.named_parameters(), again.model.parameters(), strict=True):
        assert ours.equal(theirs), name
    assert again.stop_ids == tiny_policy.stop_ids
    assert not list(tmp_path.glob("*.bin"))


def test_chunks_and_gradient_checkpointing_change_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(prompt_ids=(1, 2), completion_ids=tuple((i * k) % 20 for k in range(9))) for i in range(5)]
    pack = build_pack(rows, range(5))
    assert len(pack.target_nodes_N) < LOGIT_CHUNK
    policy = Policy.from_pretrained(tiny_model)
    whole = policy.logprobs(pack)
    whole.sum().backward()
    grads = [parameter.grad.clone() for parameter in policy.model.parameters()]
    policy.model.zero_grad()
    policy.enable_gradient_checkpointing()
    monkeypatch.setattr("srl_swe.training.scorer.LOGIT_CHUNK", 7)
    chunked = policy.logprobs(pack)
    chunked.sum().backward()
    torch.testing.assert_close(chunked, whole)
    for parameter, grad in zip(policy.model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-5, atol=1e-4)


def test_bfloat16_autocast_stays_close(tiny_model: Path) -> None:
    pack = build_pack([Row(prompt_ids=(1, 2, 3), completion_ids=(4, 5, 6))], [0])
    exact = Policy.from_pretrained(tiny_model).logprobs(pack)
    rough = Policy.from_pretrained(tiny_model, compute_dtype=torch.bfloat16).logprobs(pack)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.2)
    assert not rough.equal(exact)


def test_in_bfloat16_positions_stay_exact(tiny_model: Path) -> None:
    policy = Policy.from_pretrained(tiny_model, compute_dtype=torch.bfloat16)
    copy = policy.copy_model()
    assert {parameter.dtype for parameter in copy.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}
    assert copy.get_input_embeddings().weight is copy.get_output_embeddings().weight
    exact = dict(policy.model.named_buffers())
    policy.freeze()
    for model in (copy, policy.model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        for name, buffer in model.named_buffers():
            assert buffer.dtype == torch.float32 and buffer.equal(exact[name]), name
