"""A tiny model, tokenizer and domain, made from nothing: what the training tests run on."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from srl_swe.errors import MalformedCompletionError
from srl_swe.training.domain import Domain
from srl_swe.types import Completion, HistoryPair, Message, StepExample

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'][0] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>a {% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {character: i for i, character in enumerate(LETTERS + " \n|")}
    vocabulary["<unk>"] = len(vocabulary)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )


WINDOW = 3
"""Of the layers with a sliding window, in tokens."""
_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    "gemma2": {**_ALTERNATING, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {**_ALTERNATING, "query_pre_attn_scalar": 8},
    "gpt_oss": {
        **_ALTERNATING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        # Larger weights make its experts amplify rounding.
        "initializer_range": 0.1,
    },
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.5},
    "cohere2": {**_ALTERNATING, "logit_scale": 0.5},
}
"""Architectures by transformers' names, and what of their configs matters here."""


def make_model(
    kind: str = "llama",
    *,
    seed: int = 0,
    vocab_size: int = 32,
    head_width: int = 8,
    attention: str = "eager",
    **sizes: int,
) -> Any:
    """Two layers, four heads over two key-value heads, float32, weights large enough to matter."""
    torch.manual_seed(seed)
    options = {
        "vocab_size": vocab_size,
        "hidden_size": 4 * head_width,
        "head_dim": head_width,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "eos_token_id": 31,
        "bos_token_id": None,
        "pad_token_id": None,
        **KINDS.get(kind, {}),
        **sizes,
    }
    config = CONFIG_MAPPING[kind](**options)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()


def write_model(folder: Path, *, kind: str = "llama", seed: int = 0, head_width: int = 8, **sizes: int) -> Path:
    """Write a loadable model folder."""
    tokenizer = make_tokenizer()
    make_model(kind, seed=seed, vocab_size=len(tokenizer), head_width=head_width, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_examples(count: int, *, prefix: str = "t") -> list[StepExample]:
    """Step examples whose expert repeats a letter that the problem names."""
    return [
        StepExample(
            example_id=f"{prefix}{i}",
            instance_id=f"i{i % 3}",
            trajectory_id=f"j{i}",
            step_index=1,
            problem_statement=f"say {LETTERS[i % 26]}",
            history=(HistoryPair(action=LETTERS[(i + 1) % 26], observation="ok"),),
            expert_thought="hm",
            expert_action=LETTERS[i % 26] * 2,
        )
        for i in range(count)
    ]


def render(example: StepExample) -> list[Message]:
    """Show the problem alone."""
    return [{"role": "user", "content": example.problem_statement}]


def parse(text: str) -> Completion:
    """A completion is malformed when it holds a blank or a bar; it needs no thought."""
    thought, _, action = text.rpartition("|")
    if " " in text or "|" in thought:
        raise MalformedCompletionError("no blanks, one bar at most")
    return Completion(thought=thought, action=action)


def score(student: str, expert: str) -> float:
    """Share of the student's characters that the expert's action has."""
    return sum(c in expert for c in student) / len(student) if student else 0.0


DOMAIN = Domain(render=render, parse=parse, write=lambda thought, action: f"{thought}|{action}", score=score)
