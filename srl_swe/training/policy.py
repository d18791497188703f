"""The trained model: its tokenizer, the log-probabilities of a pack, loading and saving.

Leaves out sampling and the optimizer. Weights are float32 masters; computation follows the dtype.
T = tokens of a pack, N = nodes with a target, H = hidden size, V = vocabulary.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from srl_swe.errors import ModelError
from srl_swe.training.chat_template import (
    check_vocabulary,
    find_end_of_turn,
    render_chat,
    split_generation_prompt,
    without_answer_start,
)
from srl_swe.training.config import Attention
from srl_swe.training.prefix_tree import Pack
from srl_swe.training.scorer import TreeScorer
from srl_swe.training.tree_attention import ATTENTION_NAME
from srl_swe.training.tree_check import check_tree
from srl_swe.training.weights import cast, cast_copy, plain_weights
from srl_swe.types import Message


class Policy:
    """A causal language model with its tokenizer and chat template."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        source: str,
        compute_dtype: torch.dtype = torch.float32,
        attention: Attention = "auto",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.compute_dtype = compute_dtype
        self._source = source
        check_vocabulary(model, tokenizer, source)
        self.end_of_turn_id = find_end_of_turn(tokenizer, source)
        _, self.answer_start = split_generation_prompt(self._render([{"role": "user", "content": "a"}]))
        self.stop_ids = frozenset({self.end_of_turn_id, *_eos_ids(model, tokenizer)})
        model.config._attn_implementation = ATTENTION_NAME
        model.eval()
        self.scorer: Any = TreeScorer(model, compute_dtype, attention=attention)
        """What every forward pass of a pack goes through; where there are several processes, Accelerate's wrapper."""
        check_tree(model, self.scorer, source=source)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        compute_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: Attention = "auto",
    ) -> "Policy":
        """Load a model folder.

        Raises:
            ModelError: the folder, its weights, tokenizer or chat template is missing or unusable.
        """
        folder = Path(path)
        _check_folder(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer in {folder} has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json). Use an instruct model, or add its template to the folder."
            )
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation=ATTENTION_NAME,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
        model, report = loaded
        missing = sorted(map(str, report["missing_keys"]))
        if missing:
            raise ModelError(
                f"the weights in {folder} lack {len(missing)} tensors that config.json asks for, {missing[0]} among "
                "them; give the folder the weights that belong to its config.json"
            )
        model = model.to(device)
        return cls(model, tokenizer, source=str(folder), compute_dtype=compute_dtype, attention=attention)

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        device: torch.device = self.model.device
        return device

    @property
    def max_context(self) -> int:
        """Return the longest row in tokens."""
        config = self.model.config.get_text_config()
        limit: int = config.max_position_embeddings
        return min([limit, *_longrope_limits(config)])

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory in `logprobs`. Only for models without dropout, as all recent ones are."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()

    def freeze(self) -> None:
        """Make it a reference policy: no gradients, weights in the compute dtype."""
        cast(self.model, self.compute_dtype)
        self.model.requires_grad_(False)

    def encode_prompt(self, messages: list[Message]) -> list[int]:
        """Return the prompt's token ids, up to where the assistant begins to write, the template's own start included.

        Raises:
            ModelError: the chat template refuses the messages.
        """
        text, _ = split_generation_prompt(self._render(messages))
        ids: list[int] = self.tokenizer(text + self.answer_start, add_special_tokens=False)["input_ids"]
        return ids

    def encode_completion(self, text: str) -> list[int]:
        """Return the token ids of a completion, the end of turn included and what the prompt already holds left out.

        Raises:
            ModelError: the prompt begins every answer in a way that this text does not begin.
        """
        ids: list[int] = self.tokenizer(without_answer_start(text, self.answer_start), add_special_tokens=False)[
            "input_ids"
        ]
        return [*ids, self.end_of_turn_id]

    def decode_completion(self, ids: list[int]) -> str:
        """Return the whole answer: the start that the template wrote, and the completion without its stop token.

        Other special tokens stay visible.
        """
        body = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        text: str = self.tokenizer.decode(body, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return self.answer_start + text

    def _render(self, messages: list[Message]) -> str:
        return render_chat(self.tokenizer, messages, self._source, add_generation_prompt=True)

    def logprobs(self, pack: Pack, *, temperature: float = 1.0) -> Tensor:
        """Return the log-probability of each target node given its ancestors: shape [N], float32."""
        logprobs_N: Tensor = self.scorer(pack, temperature=temperature)[0]
        return logprobs_N

    def logprobs_and_entropies(self, pack: Pack, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return `logprobs`, and the entropy in nats of the distribution that each target was one draw of, detached."""
        logprobs_N, entropies_N = self.scorer(pack, temperature=temperature, with_entropies=True)
        return logprobs_N, entropies_N

    def copy_model(self) -> Any:
        """Return an independent copy of the model in the compute dtype, for a sampler."""
        return cast_copy(self.model, self.compute_dtype).eval().requires_grad_(False)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor as the plain model has them; every process must go through all of it."""
        yield from plain_weights(self.model)

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write weights (by default `self.weights()`) as safetensors, with what else a model folder has.

        Not atomic by itself: `checkpoint` makes a finished folder appear at once.
        """
        self.model.save_pretrained(folder, state_dict=dict(self.weights() if weights is None else weights))
        self.tokenizer.save_pretrained(folder)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"no model folder at {folder}: give a local folder with config.json, weights and tokenizer")
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors (pickled weights are not read; convert them)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    if missing:
        raise ModelError(f"the model folder {folder} lacks {', '.join(missing)}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not JSON: {error}") from error


def _longrope_limits(config: Any) -> list[int]:
    """Return up to where rows have a longrope model's short factors.

    transformers chooses between these and the long ones once for a whole pass, by the longest row in it: beyond,
    rows that are packed or decoded together would change each other's positions.
    """
    ropes = [getattr(config, name, None) or {} for name in ("rope_parameters", "rope_scaling")]
    ropes += [entry for rope in ropes for entry in rope.values() if isinstance(entry, dict)]  # one per layer type
    name = "original_max_position_embeddings"
    limits = [
        rope.get(name) or getattr(config, name, None)
        for rope in ropes
        if "longrope" in (rope.get("rope_type"), rope.get("type"))
    ]
    return [int(limit) for limit in limits if limit]


def _eos_ids(model: Any, tokenizer: Any) -> set[int]:
    found = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)]
    flat = [item for entry in found for item in (entry if isinstance(entry, list) else [entry])]
    return {int(item) for item in flat if item is not None}
