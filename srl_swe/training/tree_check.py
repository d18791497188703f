"""Whether a model reads a packed tree as it reads rows: found by trying, not by a list of architectures.

Layers with a state (Mamba, linear attention), masks or positions that a model makes by itself, logits that it changes
in a way of its own: each shows as log-probabilities that differ. Costs a few passes of some dozens of tokens.
"""

from typing import Any

import torch
from torch import Tensor

from srl_swe.errors import ModelError
from srl_swe.training.prefix_tree import Row, build_pack
from srl_swe.training.scorer import TreeScorer

LENGTH = 8
"""Tokens of the trunk and of each branch."""
TOLERANCE = 1e-4
"""Of log-probabilities in float32."""
TOLERATED_SHARE = 0.02
"""The largest error that rounding may explain, as a share of what seeing the other branch would change."""

ADVICE = (
    "Use a decoder-only model whose layers all have masked attention, such as Llama, Mistral, Qwen2, Qwen3 or Gemma 3."
)


@torch.no_grad()
def check_tree(model: Any, scorer: TreeScorer, *, source: str) -> None:
    """Compare three branches of one trunk with the model's own logits.

    Raises:
        ModelError: they differ, or the model cannot read a tree at all.
    """
    size = min(model.get_output_embeddings().weight.shape[0], 1000)
    trunk, *branches = ([(7 * i * i + 3 * i + 5 * part) % size for i in range(LENGTH)] for part in range(4))
    rows = [Row(prompt_ids=tuple(trunk), completion_ids=tuple(branch)) for branch in branches]
    kind = type(model).__name__
    advice = f"{ADVICE} If it is FlexAttention that fails, give --attention sdpa." if scorer.by_flex else ADVICE
    try:
        wrong, effect = _compare(model, scorer, rows)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, ModelError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the model in {source} ({kind}) cannot read a packed token tree: {error}. {advice}"
        ) from error
    if not wrong <= max(TOLERANCE, TOLERATED_SHARE * effect):
        layers = sorted(set(getattr(model.config.get_text_config(), "layer_types", None) or ()))
        known = f" with layers of the kinds {', '.join(layers)}" if layers else ""
        raise ModelError(
            f"the model in {source} ({kind}{known}) does not give the same log-probabilities in a packed token tree as "
            f"row by row (they differ by {wrong:.2g}, seeing another branch changes them by {effect:.2g}): its layers "
            f"carry a state from token to token, or it changes logits in a way that its config does not say. {advice}"
        )


def _compare(model: Any, scorer: TreeScorer, rows: list[Row]) -> tuple[float, float]:
    """Return how far the tree is from the rows, and how far the rows are from one sequence of all tokens."""
    pack = build_pack(rows, range(len(rows)))
    dtype, scorer.compute_dtype = scorer.compute_dtype, torch.float32
    try:
        (found_N,) = scorer(pack)
    finally:
        scorer.compute_dtype = dtype
    in_rows = [_logprobs(model, rows[index].token_ids) for index in pack.row_indices]
    in_one = _logprobs(model, tuple(pack.token_ids_T.tolist()))
    wrong, effect = 0.0, 0.0
    for targets, expected in zip(pack.targets_SL, in_rows, strict=True):
        expected = expected[LENGTH - 1 :]
        wrong = max(wrong, float((found_N.cpu()[targets] - expected).abs().nan_to_num(torch.inf).max()))
        places = pack.target_nodes_N[targets] - 1
        effect = max(effect, float((in_one[places[1:]] - expected[1:]).abs().max()))
    return wrong, effect


def _logprobs(model: Any, ids: tuple[int, ...]) -> Tensor:
    """Return the log-probability of each token but the first, by the model alone."""
    tokens = torch.tensor([ids], device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
    logprobs: Tensor = logits.log_softmax(-1).gather(1, tokens[0, 1:, None]).squeeze(1).cpu()
    return logprobs
