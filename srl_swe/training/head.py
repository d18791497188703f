"""From hidden states to logits, where whole rows of logits would not fit: the head of a model by itself.

Models that scale or cap their logits say so in their config. Leaves out every other way: `tree_check` refuses those.
"""

from typing import Any

from torch import Tensor


def output_logits(model: Any, hidden: Tensor) -> Tensor:
    """Return a causal language model's logits in float32: [..., vocabulary]."""
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    config = model.config.get_text_config()
    if factor := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * factor
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = cap * (logits / cap).tanh()
    return logits
