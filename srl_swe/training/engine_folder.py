"""The folder through which a sampling engine in another process gets the policy: its config and its weights.

Leaves out how the engine is told to read it.
"""

import copy
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from srl_swe.errors import SamplerError
from srl_swe.training.policy import Policy
from srl_swe.training.samplers import SampledCompletion

WEIGHTS_FILE = "model.safetensors"


class EngineFolder:
    """A model folder without a tokenizer, rewritten whenever the policy has changed.

    Weights are in the policy's compute dtype: 2 bytes per parameter in bfloat16. Tied embeddings are written twice. It
    begins blank: the rows of the output embedding are equal, so that every token is equally likely. An engine that was
    given the policy and still samples like that has not taken over what it was given.
    """

    def __init__(self, path: Path, policy: Policy) -> None:
        self.path = path.absolute()
        tensors = _tensors(policy)
        self._shapes = _shapes(tensors)
        self._vocabulary = vocabulary_size(policy)
        self.path.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(policy.model.config)
        # A vLLM 0.32 on a CPU keeps its own packed copy of a tied output embedding, which new weights do not reach.
        config.tie_word_embeddings = False
        config.save_pretrained(self.path)
        output = policy.model.get_output_embeddings().weight
        for name, parameter in policy.model.named_parameters(remove_duplicate=False):
            if parameter is output:
                tensors[name] = torch.ones_like(parameter)
        self._save(tensors, policy.compute_dtype)

    def write(self, policy: Policy) -> None:
        """Replace the weights by the policy's.

        Raises:
            SamplerError: the policy's tensors are not those that the folder began with.
        """
        tensors = _tensors(policy)
        shapes = _shapes(tensors)
        vocabulary = vocabulary_size(policy)
        if vocabulary != self._vocabulary:
            raise SamplerError(
                f"the policy has a vocabulary of {vocabulary} tokens, the sampling engine one of {self._vocabulary}: "
                "start an engine for this policy"
            )
        if shapes != self._shapes:
            names = sorted(n for n in shapes.keys() | self._shapes.keys() if shapes.get(n) != self._shapes.get(n))
            raise SamplerError(
                f"the policy is not of the shape that the sampling engine was started with: {names[0]} is "
                f"{shapes.get(names[0])}, the engine's is {self._shapes.get(names[0])} ({len(names)} tensors differ)"
            )
        self._save(tensors, policy.compute_dtype)

    def is_blank(self, completion: SampledCompletion) -> bool:
        """Return whether the first token was as likely as every other one."""
        return abs(completion.logprobs[0] + math.log(self._vocabulary)) < 1e-3

    @torch.no_grad()
    def _save(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        # Copies, as safetensors refuses tensors that share memory.
        copies = {
            name: tensor.to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        unfinished = self.path / f".{WEIGHTS_FILE}"
        save_file(copies, unfinished, metadata={"format": "pt"})
        unfinished.replace(self.path / WEIGHTS_FILE)

    def remove(self) -> None:
        """Delete it; idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)


def vocabulary_size(policy: Policy) -> int:
    """Return how many tokens the model knows, those without a text included."""
    return int(policy.model.get_input_embeddings().weight.shape[0])


def _tensors(policy: Policy) -> dict[str, Tensor]:
    """Return the plain model's weights, a shared one under each of its names."""
    tensors = dict(policy.weights())
    first_names = {id(parameter): name for name, parameter in policy.model.named_parameters()}
    for name, parameter in policy.model.named_parameters(remove_duplicate=False):
        shared = first_names[id(parameter)]
        if name != shared and shared in tensors:
            tensors[name] = tensors[shared]
    return tensors


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
