"""Which instances are held out for validation, and which repository an instance is of."""

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

from srl_swe.errors import ConfigError

SplitUnit = Literal["instance", "repo"]

_REPO = re.compile(r"(.+?__.+?)(?:-\d+|\.[0-9a-f]{6,40}(?:\..*)?|\.pr_\d+|\.v?\d[\w.]*)$")

SWE_BENCH_TEST_REPOS = frozenset(
    {
        "astropy/astropy",
        "django/django",
        "matplotlib/matplotlib",
        "mwaskom/seaborn",
        "pallets/flask",
        "psf/requests",
        "pydata/xarray",
        "pylint-dev/pylint",
        "pytest-dev/pytest",
        "scikit-learn/scikit-learn",
        "sphinx-doc/sphinx",
        "sympy/sympy",
    }
)
"""The repositories that SWE-bench's test split, Lite and Verified are made of (arXiv 2310.06770, table 12)."""


def repo_of(instance_id: str) -> str:
    """Return the repository of an instance as "owner__name" in lower case, or the whole id where it tells none.

    >>> repo_of("Django__django-11001"), repo_of("marshmallow-code__apispec.8b421526.pr_828")
    ('django__django', 'marshmallow-code__apispec')
    """
    found = _REPO.fullmatch(instance_id)
    return (found.group(1) if found else instance_id).lower()


def repo_key(repo: str) -> str:
    """Return "owner/name" or "owner__name" in the form that `repo_of` gives."""
    return repo.replace("/", "__").lower()


def split_by_instance(
    instance_ids: Iterable[str],
    *,
    validation_share: float | None = None,
    num_validation: int | None = None,
    seed: int = 0,
    unit: SplitUnit = "instance",
) -> frozenset[str]:
    """Return the instance ids held out for validation; no instance (no repository) is on both sides.

    The choice depends on the set of ids and the seed alone, not on their order. With a share, a unit's side does not
    change when other units come or go, except that at least one stays on either side where there are two or more.

    Args:
        instance_ids: Ids, repetitions allowed.
        validation_share: Share of the units, 0 to below 1. Exactly one of this and `num_validation` is given.
        num_validation: Number of units.
        seed: Another seed, another choice.
        unit: What is drawn: instances, or repositories with all their instances.

    Raises:
        ConfigError: both or none of the two sizes are given, or one is out of its range.
    """
    if (validation_share is None) == (num_validation is None):
        raise ConfigError("give exactly one of validation_share and num_validation")
    ids = set(instance_ids)
    unit_of = {instance_id: repo_of(instance_id) if unit == "repo" else instance_id for instance_id in ids}
    ranked = sorted(set(unit_of.values()), key=lambda name: (_unit_hash(name, seed), name))
    if num_validation is not None:
        if not 0 <= num_validation < max(1, len(ranked)):
            raise ConfigError(
                f"num_validation is {num_validation}; with {len(ranked)} {unit}s it must be 0 to {len(ranked) - 1}"
            )
        count = num_validation
    else:
        assert validation_share is not None
        if not 0 <= validation_share < 1:
            raise ConfigError(f"validation_share is {validation_share}; it must be 0 or more and below 1")
        count = sum(_unit_hash(name, seed) < validation_share for name in ranked)
        if validation_share > 0 and len(ranked) > 1:
            count = min(max(count, 1), len(ranked) - 1)
    held_out = set(ranked[:count])
    return frozenset(instance_id for instance_id in ids if unit_of[instance_id] in held_out)


def _unit_hash(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
