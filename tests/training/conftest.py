"""Fixtures for training: everything tiny, made from nothing, on one thread and one process."""

from pathlib import Path

import pytest

from srl_swe.training.policy import Policy

from .tiny import write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama with a tokenizer of one token per character."""
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_policy(tiny_model: Path) -> Policy:
    """The same, loaded; tests must not change its weights."""
    return Policy.from_pretrained(tiny_model)
