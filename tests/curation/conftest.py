"""The tiny instance of the evaluation's tests, with the engine that has its image."""

from tests.evaluation.conftest import tiny_engine

__all__ = ["tiny_engine"]
