"""Fixtures for training: everything tiny, made from nothing, on one thread and one process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.engine import Engine
from srl_swe.environments.images import BASE_IMAGE
from srl_swe.errors import EngineUnavailableError
from srl_swe.training.policy import Policy
from tests.environments.conftest import remove_prepared

from .episode_world import FIX_TOKEN, IMAGE, build_image, write_acting_model
from .tiny import write_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama with a tokenizer of one token per character."""
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_policy(tiny_model: Path) -> Policy:
    """The same, loaded; tests must not change its weights."""
    return Policy.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def acting_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Llama that can name the command which repairs the instances of `episode_world`."""
    return write_acting_model(tmp_path_factory.mktemp("acting"))


@pytest.fixture(scope="session")
def acting_policy(acting_model: Path) -> Policy:
    """The same, loaded; tests must not change its weights."""
    return Policy.from_pretrained(acting_model)


@pytest.fixture(scope="session")
def acting_engine() -> Iterator[Engine]:
    """An engine that has the image of `episode_world`; it is removed at the end, with what was prepared of it."""
    try:
        engine = connect_engine()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with engine:
        if engine.find_image(BASE_IMAGE) is None:
            pytest.skip(f"the base image {BASE_IMAGE} is missing; `make setup` makes it")
        build_image(engine)
        yield engine
        remove_prepared(engine, IMAGE)


@pytest.fixture(scope="session")
def ids(acting_policy: Policy) -> Callable[..., tuple[int, ...]]:
    """ids("h|", FIX_TOKEN): the token ids of some texts, each token by itself, and the end of the turn."""

    def encode(*texts: str) -> tuple[int, ...]:
        vocabulary = acting_policy.tokenizer.get_vocab()
        tokens = [token for text in texts for token in ([text] if text == FIX_TOKEN else list(text))]
        return (*(vocabulary[token] for token in tokens), acting_policy.end_of_turn_id)

    return encode
