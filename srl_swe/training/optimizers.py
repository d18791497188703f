"""Optimizers by name, over the weights that are trained."""

import importlib
from typing import Any

import torch

from srl_swe.errors import ConfigError
from srl_swe.training.config import TrainConfig


def make_optimizer(config: TrainConfig, model: Any) -> torch.optim.Optimizer:
    """Return the optimizer that the options name.

    Raises:
        ConfigError: its package is not installed.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = config.recipe.learning_rate, config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    try:
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            f"optimizer adamw_8bit needs bitsandbytes ({error}): pip install 'srl-swe[8bit]', or --optimizer adamw"
        ) from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=rate, weight_decay=decay)
    return optimizer
