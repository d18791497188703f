"""Templates that begin the answer themselves, and tokenizers that do not serve."""

import doctest
import json
import string
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import PreTrainedTokenizerFast

from srl_swe import prompts
from srl_swe.errors import ModelError
from srl_swe.prompts import PromptLimits
from srl_swe.rewards import similarity
from srl_swe.software_engineering import software_engineering
from srl_swe.training import chat_template
from srl_swe.training.batches import target_ids
from srl_swe.training.policy import Policy
from srl_swe.training.rollouts import score_completion
from srl_swe.training.trainer import train
from srl_swe.training.transformers_sampler import TransformersSampler

from .run_tiny import tiny_config
from .tiny import make_examples, make_model

TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n"
PLAIN = TURNS + HEADER + "{% endif %}"
OPENED = TURNS + HEADER + "<think>\n{% endif %}"
"""Qwen3's thinking models and DeepSeek-R1's distillations write this."""
OPENED_BARE = TURNS + HEADER + "<think>{% endif %}"
CLOSED = TURNS + HEADER + "<think>\n\n</think>\n\n{% endif %}"
"""Qwen3 with thinking switched off."""
TEMPLATES = {"plain": PLAIN, "opened": OPENED, "bare": OPENED_BARE, "closed": CLOSED}
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "say a"}]
ANSWER = prompts.write("hm", "ls -l")
DOMAIN = software_engineering(PromptLimits())


def make_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One token per printable character, and the tags as tokens of their own, as reasoning models have them."""
    vocabulary = {character: i for i, character in enumerate([*string.printable, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>", chat_template=template
    )


def make_policy(template: str) -> Policy:
    tokenizer = make_tokenizer(template)
    return Policy(make_model(vocab_size=len(tokenizer)), tokenizer, source="here")


def test_examples_in_the_text() -> None:
    assert doctest.testmod(chat_template).failed == 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_the_template_an_answer_is_whole(name: str) -> None:
    policy = make_policy(TEMPLATES[name])
    assert policy.answer_start == {"opened": "<think>\n", "bare": "<think>"}.get(name, "")
    prompt = policy.tokenizer.decode(policy.encode_prompt(MESSAGES))
    assert prompt == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nsay a<|im_end|>\n<|im_start|>assistant\n"
        + policy.answer_start
    )
    # What SFT imitates, behind the prompt, has the tag once; and it reads back as what was written.
    completion = policy.encode_completion(ANSWER)
    assert (prompt + policy.tokenizer.decode(completion)).count("<think>") == 1
    assert prompt.endswith(policy.answer_start)
    assert policy.decode_completion(completion) == ANSWER
    assert completion[-1] == policy.end_of_turn_id
    example = make_examples(1)[0]
    assert score_completion(policy.decode_completion(completion), example, DOMAIN) == (
        similarity("ls -l", example.expert_action),
        {"similarity": similarity("ls -l", example.expert_action), "well_formed": 1.0},
    )
    assert policy.decode_completion(target_ids(example, policy, DOMAIN)) == DOMAIN.write("hm", "aa")


def test_a_sampled_answer_has_its_start_back() -> None:
    policy = make_policy(OPENED)
    sampler = TransformersSampler(policy, cached_tokens=1000, concurrent_rollouts=4)
    [drafts] = sampler.sample(
        [policy.encode_prompt(MESSAGES)], num_rollouts=2, max_completion_tokens=5, temperature=1.0, seed=0
    )
    for draft in drafts:
        assert draft.text.startswith("<think>\n")
        assert len(draft.ids) <= 5


def test_an_answer_without_the_start_cannot_be_imitated() -> None:
    with pytest.raises(ModelError, match="begins every answer with '<think>"):
        make_policy(OPENED).encode_completion("hm|aa")


@pytest.mark.parametrize("name", TEMPLATES)
def test_sft_and_srl_under_each_template(tmp_path: Path, name: str) -> None:
    policy = make_policy(TEMPLATES[name])
    policy.model.config.max_position_embeddings = 2048
    (tmp_path / "model").mkdir()
    policy.save(tmp_path / "model")
    sizes = {
        "max_prompt_tokens": 1500, "max_completion_tokens": 64, "tokens_per_pack": 2000, "cached_tokens": 4000,
        "num_iterations": 2, "prompts_per_iteration": 2, "max_refills": 0,
    }  # fmt: skip
    examples = make_examples(4)
    config = tiny_config(tmp_path / "model", tmp_path / "sft", "sft", **(sizes | {"num_iterations": 40}))
    warm = train(config, examples, examples, DOMAIN)
    last = json.loads((config.output / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation/format_rate"] == 1.0
    srl = tiny_config(warm.last_model, tmp_path / "srl", "srl", **(sizes | {"prompts_per_iteration": 4}))
    train(srl, examples, [], DOMAIN)
    entry = json.loads((srl.output / "metrics.jsonl").read_text().splitlines()[1])
    assert entry["reward/format_rate"] > 0.5


def test_neither_end_of_turn_nor_eos() -> None:
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no completion could end; set eos_token"):
        Policy(make_model(vocab_size=len(tokenizer)), tokenizer, source="here")


def test_a_template_that_drops_answers() -> None:
    template = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(ModelError, match="leaves out what the assistant says"):
        make_policy(template)


def test_a_template_that_takes_no_system_message() -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
    with pytest.raises(ModelError, match="roles system, user: no system role"):
        make_policy(refusing).encode_prompt(MESSAGES)


def test_a_damaged_template() -> None:
    with pytest.raises(ModelError, match="chat template of here"):
        make_policy("{% for m in messages %}")


def test_more_tokens_than_embeddings() -> None:
    tokenizer = make_tokenizer(PLAIN)
    highest = len(tokenizer) - 1
    with pytest.raises(ModelError, match=f"token ids up to {highest}, but the model has {highest} embeddings"):
        Policy(make_model(vocab_size=highest), tokenizer, source="here")
    # More embeddings than tokens are padding.
    Policy(make_model(vocab_size=highest + 9), tokenizer, source="here")
