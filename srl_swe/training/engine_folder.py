"""The folder through which a sampling engine in another process gets the policy: its config and its weights.

Leaves out how the engine is told to read it.
"""

import copy
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from srl_swe.errors import SamplerError
from srl_swe.training.policy import Policy
from srl_swe.training.processes import Processes
from srl_swe.training.samplers import SampledCompletion

WEIGHTS_FILE = "model.safetensors"

Shapes = dict[str, tuple[int, ...]]


class EngineFolder:
    """A model folder without a tokenizer, rewritten whenever the policy has changed.

    Weights are in the policy's compute dtype: 2 bytes per parameter in bfloat16. Tied embeddings are written twice. It
    begins blank: the rows of the output embedding are equal, so that every token is equally likely. An engine that was
    given the policy and still samples like that has not taken over what it was given.

    Several processes share one folder: the first writes it, and all must call alike.
    """

    def __init__(self, path: Path, policy: Policy, processes: Processes | None = None) -> None:
        self._processes = processes or Processes()
        self.path = path.absolute()
        tensors, self._shapes = self._collect(policy)
        self._vocabulary = vocabulary_size(policy)
        if self._processes.first:
            self.path.mkdir(parents=True, exist_ok=True)
            config = copy.deepcopy(policy.model.config)
            # A vLLM 0.32 on a CPU keeps its own packed copy of a tied output embedding, which new weights do not reach.
            config.tie_word_embeddings = False
            config.save_pretrained(self.path)
            output = policy.model.get_output_embeddings().weight
            for name, parameter in policy.model.named_parameters(remove_duplicate=False):
                if parameter is output:
                    tensors[name] = torch.ones_like(tensors[name])
        self._save(tensors)

    def write(self, policy: Policy) -> None:
        """Replace the weights by the policy's, when every engine has read those before.

        Raises:
            SamplerError: the policy's tensors are not those that the folder began with.
        """
        tensors, shapes = self._collect(policy)
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
        self._save(tensors)

    def is_blank(self, completion: SampledCompletion) -> bool:
        """Return whether the first token was as likely as every other one."""
        return abs(completion.logprobs[0] + math.log(self._vocabulary)) < 1e-3

    @torch.no_grad()
    def _collect(self, policy: Policy) -> tuple[dict[str, Tensor], Shapes]:
        """Return copies of the plain model's weights, a shared one under each of its names, and all their shapes.

        The copies are in the first process alone.
        """
        tensors: dict[str, Tensor] = {}
        shapes: Shapes = {}
        for name, tensor in policy.weights():
            shapes[name] = tuple(tensor.shape)
            if self._processes.first:
                tensors[name] = _copy(tensor, policy.compute_dtype)
        first_names = {id(parameter): name for name, parameter in policy.model.named_parameters()}
        for name, parameter in policy.model.named_parameters(remove_duplicate=False):
            shared = first_names[id(parameter)]
            if name != shared and shared in shapes:
                shapes[name] = shapes[shared]
                if self._processes.first:
                    # safetensors refuses tensors that share memory.
                    tensors[name] = tensors[shared].clone()
        return tensors, shapes

    def _save(self, tensors: dict[str, Tensor]) -> None:
        self._processes.wait()
        if self._processes.first:
            unfinished = self.path / f".{WEIGHTS_FILE}"
            save_file(tensors, unfinished, metadata={"format": "pt"})
            unfinished.replace(self.path / WEIGHTS_FILE)
        self._processes.wait()

    def remove(self) -> None:
        """Delete it; idempotent."""
        if self._processes.first:
            shutil.rmtree(self.path, ignore_errors=True)


def vocabulary_size(policy: Policy) -> int:
    """Return how many tokens the model knows, those without a text included."""
    return int(policy.model.get_input_embeddings().weight.shape[0])


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
