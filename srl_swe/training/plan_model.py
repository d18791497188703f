"""The shape of a model as its config.json says it, and the number of parameters that follows from it.

Leaves out weights: nothing is loaded. Sizes of well-known models are built in, so that a plan needs no network.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from srl_swe.errors import ModelError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What decides a decoder-only transformer's parameters, activations and floating-point operations."""

    name: str
    source: str
    """Where the numbers come from, to be shown."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    head_width: int
    vocabulary: int
    max_context: int
    """In tokens."""
    tied: bool
    """Whether the output embedding is the input's."""
    input_biases: bool = False
    """Biases of the query, key and value projections."""
    output_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    head_norms: bool = False
    """Norms of queries and keys, one weight for each place of a head."""
    norms_per_layer: int = 2

    @property
    def query_width(self) -> int:
        """Return the width of all query heads."""
        return self.num_heads * self.head_width

    @property
    def key_width(self) -> int:
        """Return the width of all key heads, which is that of all value heads."""
        return self.num_key_value_heads * self.head_width

    @property
    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """Return (inputs, outputs) of the linear maps of one layer: q, k, v, o, gate, up, down."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.query_width, self.key_width
        return (
            (hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden),
            (hidden, inner), (hidden, inner), (inner, hidden),
        )  # fmt: skip

    @property
    def linear_parameters(self) -> int:
        """Return the weights of the linear maps of all layers: what each token is multiplied with."""
        return self.num_layers * sum(inputs * outputs for inputs, outputs in self.linear_shapes)

    @property
    def embedding_parameters(self) -> int:
        """Return the size of one embedding."""
        return self.vocabulary * self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """Return all parameters of one layer."""
        biases = (self.query_width + 2 * self.key_width) * self.input_biases + self.hidden_size * self.output_bias
        biases += (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        norms = self.norms_per_layer * self.hidden_size + 2 * self.head_width * self.head_norms
        return self.linear_parameters // self.num_layers + biases + norms

    @property
    def num_parameters(self) -> int:
        """Return all parameters, a tied embedding counted once."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.num_layers * self.layer_parameters + self.hidden_size + embeddings

    def adapter_parameters(self, rank: int) -> int:
        """Return the parameters of low-rank adapters beside every linear map but the output embedding."""
        return self.num_layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linear_shapes)

    def bytes_per_cached_token(self, itemsize: int) -> int:
        """Return what the keys and values of one token take."""
        return 2 * self.num_layers * self.key_width * itemsize


def find_shape(model: str) -> ModelShape:
    """Return the shape of a model: a folder, its config.json, or the name of a well-known model.

    Raises:
        ModelError: there is no such file or name, or its architecture is not known here.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise ModelError(f"the model folder {model} has no config.json: give the folder that holds it")
    if path.is_file():
        try:
            config = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read as JSON: {error}; give a model's config.json") from error
        return shape_of_config(config, name=path.resolve().parent.name, source=str(path))
    config = PUBLISHED.get(_plain_name(model))
    if config is None:
        raise ModelError(
            f"{model!r} is neither a model folder, nor a config.json, nor one of the models whose published sizes are "
            f"built in ({', '.join(PUBLISHED)}). Fetch its config.json (`hf download {model} config.json --local-dir "
            "FOLDER`) and give --model FOLDER"
        )
    return shape_of_config(config, name=model, source="published sizes, built in")


def shape_of_config(config: Any, *, name: str, source: str) -> ModelShape:
    """Return the shape that the content of a config.json describes.

    Raises:
        ModelError: a field is missing or no number, or the architecture is not known.
    """
    if not isinstance(config, Mapping):
        raise ModelError(f"{source}: expected a JSON object, found {type(config).__name__}")
    kind = str(config.get("model_type"))
    if kind not in _KINDS:
        raise ModelError(
            f"{source}: the memory of model_type {kind!r} is not known to plan; known are {', '.join(_KINDS)}. "
            "Measure one iteration with --num-iterations 1 instead"
        )

    def size(field: str, default: int | None = None) -> int:
        value = config.get(field)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{source}: {field} must be an integer of at least 1, found {value!r}")
        return value

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    biased = bool(config.get("attention_bias", False))
    return ModelShape(
        name=name,
        source=source,
        num_layers=size("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_heads=heads,
        num_key_value_heads=size("num_key_value_heads", heads),
        head_width=size("head_dim", hidden // heads),
        vocabulary=size("vocab_size"),
        max_context=size("max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", _KINDS[kind])),
        input_biases=biased or kind == "qwen2",
        output_bias=biased and kind != "qwen2",
        mlp_bias=bool(config.get("mlp_bias", False)) and kind == "llama",
        head_norms=kind == "qwen3",
    )


_KINDS: Mapping[str, bool] = MappingProxyType({"llama": False, "mistral": False, "qwen2": False, "qwen3": False})
"""Architectures, and whether they tie embeddings where the config does not say."""


def _plain_name(model: str) -> str:
    """Return what decides a published model's sizes. Example: Qwen/Qwen2.5-Coder-7B-Instruct -> qwen2.5-7b."""
    name = model.rpartition("/")[2].lower()
    for part in ("-instruct", "-base", "-coder", "meta-"):
        name = name.replace(part, "")
    return name


def _published(
    kind: str, layers: int, hidden: int, inner: int, heads: int, key_value_heads: int, vocabulary: int, context: int,
    *, tied: bool, head_width: int | None = None,
) -> Mapping[str, object]:  # fmt: skip
    return {
        "model_type": kind, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads, "vocab_size": vocabulary,
        "max_position_embeddings": context, "tie_word_embeddings": tied, "head_dim": head_width,
    }  # fmt: skip


PUBLISHED: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "qwen2.5-0.5b": _published("qwen2", 24, 896, 4864, 14, 2, 151936, 32768, tied=True),
        "qwen2.5-1.5b": _published("qwen2", 28, 1536, 8960, 12, 2, 151936, 32768, tied=True),
        "qwen2.5-3b": _published("qwen2", 36, 2048, 11008, 16, 2, 151936, 32768, tied=True),
        "qwen2.5-7b": _published("qwen2", 28, 3584, 18944, 28, 4, 152064, 32768, tied=False),
        "qwen2.5-14b": _published("qwen2", 48, 5120, 13824, 40, 8, 152064, 32768, tied=False),
        "qwen2.5-32b": _published("qwen2", 64, 5120, 27648, 40, 8, 152064, 32768, tied=False),
        "qwen3-0.6b": _published("qwen3", 28, 1024, 3072, 16, 8, 151936, 40960, tied=True, head_width=128),
        "qwen3-1.7b": _published("qwen3", 28, 2048, 6144, 16, 8, 151936, 40960, tied=True, head_width=128),
        "qwen3-4b": _published("qwen3", 36, 2560, 9728, 32, 8, 151936, 40960, tied=True, head_width=128),
        "qwen3-8b": _published("qwen3", 36, 4096, 12288, 32, 8, 151936, 40960, tied=False, head_width=128),
        "qwen3-14b": _published("qwen3", 40, 5120, 17408, 40, 8, 151936, 40960, tied=False, head_width=128),
        "qwen3-32b": _published("qwen3", 64, 5120, 25600, 64, 8, 151936, 40960, tied=False, head_width=128),
        "smollm2-135m": _published("llama", 30, 576, 1536, 9, 3, 49152, 8192, tied=True),
        "smollm2-360m": _published("llama", 32, 960, 2560, 15, 5, 49152, 8192, tied=True),
        "smollm2-1.7b": _published("llama", 24, 2048, 8192, 32, 32, 49152, 8192, tied=True),
        "llama-3.2-1b": _published("llama", 16, 2048, 8192, 32, 8, 128256, 131072, tied=True, head_width=64),
        "llama-3.2-3b": _published("llama", 28, 3072, 8192, 24, 8, 128256, 131072, tied=True, head_width=128),
        "llama-3.1-8b": _published("llama", 32, 4096, 14336, 32, 8, 128256, 131072, tied=False),
        "llama-3.1-70b": _published("llama", 80, 8192, 28672, 64, 8, 128256, 131072, tied=False),
    }
)
"""Fields of config.json as published with the models; instruct and coder models have those of the base."""
