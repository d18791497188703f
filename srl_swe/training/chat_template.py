"""What a tokenizer and its chat template ask for: where an answer begins, how it ends, how many tokens there are.

Templates of reasoning models (DeepSeek-R1's distillations, Qwen3's thinking models) write `<think>` for the assistant.
The policy keeps that in the prompt, puts it back in front of what was sampled, and leaves it out of what SFT imitates;
so renderer, parser and scorer see whole answers, whatever the template. Leaves out the model.
"""

import re
from typing import Any

from jinja2.exceptions import TemplateError

from srl_swe.errors import ModelError
from srl_swe.types import Message

_OPENED = re.compile(r"<think>\s*\Z")
_OPENED_AND_CLOSED = re.compile(r"<think>\s*</think>\s*\Z")


def render_chat(tokenizer: Any, messages: list[Message], source: str, *, add_generation_prompt: bool) -> str:
    """Return the messages as the chat template writes them.

    Raises:
        ModelError: the template refuses the messages (some allow no system message) or is damaged.
    """
    try:
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"the chat template of {source} does not take messages with the roles {roles}: {error}. Put a template "
            "that does into the folder (chat_template.jinja)."
        ) from error
    return text


def split_generation_prompt(text: str) -> tuple[str, str]:
    """Split a rendered prompt into what comes before the assistant's answer, and how the template begins the answer.

    A thought that the template opens and closes is left out of both, because the answer must hold a thought.

    >>> split_generation_prompt("<|user|>hi<|assistant|><think>\\n")
    ('<|user|>hi<|assistant|>', '<think>\\n')
    >>> split_generation_prompt("<|user|>hi<|assistant|><think>\\n\\n</think>\\n\\n")
    ('<|user|>hi<|assistant|>', '')
    """
    closed = _OPENED_AND_CLOSED.search(text)
    if closed:
        return text[: closed.start()], ""
    opened = _OPENED.search(text)
    return (text[: opened.start()], text[opened.start() :]) if opened else (text, "")


def without_answer_start(text: str, start: str) -> str:
    """Return a whole answer without the start that the prompt already holds; blanks around the tag need not agree.

    >>> without_answer_start("<think>\\nhm\\n</think>", "<think>\\n")
    'hm\\n</think>'

    Raises:
        ModelError: the answer begins otherwise, so the model could not give it after this prompt.
    """
    tag = start.strip()
    if text.startswith(start):
        return text.removeprefix(start)
    if not text.startswith(tag):
        raise ModelError(
            f"the chat template begins every answer with {start!r}, but an answer to imitate begins with "
            f"{text[:20]!r}; give the model folder a template whose generation prompt ends at the assistant's header"
        )
    return text.removeprefix(tag).lstrip()


def find_end_of_turn(tokenizer: Any, source: str) -> int:
    """Return the token that the chat template writes after an assistant's message, else the eos token.

    Raises:
        ModelError: there is neither, so that no completion could end, or the template drops assistants' messages.
    """
    mark = "xyzzy"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    text = render_chat(tokenizer, turns, source, add_generation_prompt=False)
    if mark not in text:
        raise ModelError(
            f"the chat template of {source} leaves out what the assistant says; use the model's own template"
        )
    tail = tokenizer(text[text.rindex(mark) + len(mark) :], add_special_tokens=False)["input_ids"]
    if tail and int(tail[0]) in tokenizer.added_tokens_decoder:
        return int(tail[0])
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer in {source} has neither an end-of-turn token in its template nor an eos token, so no "
            "completion could end; set eos_token in its tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def check_vocabulary(model: Any, tokenizer: Any, source: str) -> None:
    """Check that the model has an embedding for every token. More embeddings than tokens are usual: padding.

    Raises:
        ModelError: the tokenizer knows tokens that the model does not.
    """
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= num_embeddings:
        raise ModelError(
            f"the tokenizer in {source} has token ids up to {highest}, but the model has {num_embeddings} embeddings: "
            "they do not belong together; give the folder the model's own tokenizer"
        )
