"""A tiny model, tokenizer and domain, made from nothing: what the training tests run on."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

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


def make_model(kind: str = "llama", *, seed: int = 0, vocab_size: int = 32, **sizes: int) -> torch.nn.Module:
    """Two layers, four heads over two key-value heads, float32, weights large enough to matter."""
    torch.manual_seed(seed)
    options = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "attn_implementation": "sdpa",
        "eos_token_id": 31,
        "bos_token_id": None,
        "pad_token_id": None,
        **sizes,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **options)).eval()
    return Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=False, **options)).eval()


def write_model(folder: Path, *, seed: int = 0, **sizes: int) -> Path:
    """Write a loadable model folder."""
    tokenizer = make_tokenizer()
    make_model(seed=seed, vocab_size=len(tokenizer), **sizes).save_pretrained(folder)
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
