"""Which instances of a set are chosen, in which order, and what a wrong choice says."""

from dataclasses import replace

import pytest

from srl_swe.errors import ConfigError, DataError
from srl_swe.evaluation.choice import Choice
from tests.evaluation.test_report import make_instance

NAMES = ("django__django-1", "django__django-2", "sympy__sympy-1", "odd[1]", "astropy__astropy-7")
REPOS = ("django/django", "django/django", "sympy/sympy", "odd/odd", "astropy/astropy")
INSTANCES = tuple(replace(make_instance(name), repo=repo) for name, repo in zip(NAMES, REPOS, strict=True))


def chosen(**parts: object) -> tuple[str, ...]:
    return tuple(instance.instance_id for instance in Choice(**parts).of(INSTANCES))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, NAMES),
        ({"instance_ids": ("sympy__sympy-1", "django__django-2")}, (NAMES[1], NAMES[2])),
        ({"instance_ids": ("django__*",)}, NAMES[:2]),
        ({"instance_ids": ("*-[17]", "odd[1]")}, (NAMES[0], NAMES[2], NAMES[3], NAMES[4])),
        ({"repo": ("django/django", "sympy/sympy")}, NAMES[:3]),
        ({"instance_ids": ("*-1",), "repo": ("django/django",)}, NAMES[:1]),
        ({"slice": "1:3"}, NAMES[1:3]),
        ({"slice": "3:"}, NAMES[3:]),
        ({"slice": ":2"}, NAMES[:2]),
        ({"slice": "1:100", "limit": 2}, NAMES[1:3]),
        ({"repo": ("django/django",), "slice": "1:"}, NAMES[1:2]),
        ({"limit": 99}, NAMES),
    ],
)
def test_choices(parts: dict[str, object], expected: tuple[str, ...]) -> None:
    assert chosen(**parts) == expected


def test_a_shuffle_comes_before_the_slice_and_after_the_filters() -> None:
    shuffled = chosen(shuffle=3)
    assert sorted(shuffled) == sorted(NAMES)
    assert shuffled == chosen(shuffle=3) != NAMES
    assert chosen(shuffle=3, slice="1:3") == shuffled[1:3]
    assert {chosen(shuffle=seed, repo=("django/django",)) for seed in range(20)} == {NAMES[:2], NAMES[:2][::-1]}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"instance_ids": ("nobody", NAMES[0])}, "1 instance ids are not among the 5 instances: nobody"),
        ({"instance_ids": ("flask*",)}, "'flask\\*' matches none of the 5 instance ids"),
        (
            {"repo": ("flask/flask",)},
            "the repository flask/flask; the repositories are: astropy/astropy",
        ),
        ({"slice": "5:9"}, "no instances to evaluate: of 5 instances, 5 match"),
        ({"instance_ids": ("sympy*",), "repo": ("django/django",)}, "no instance is of the repository django/django"),
    ],
)
def test_what_matches_nothing_is_named(parts: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        chosen(**parts)


@pytest.mark.parametrize("wrong", ["5", "a:b", "5:5", "5:2", "-1:3", "1:2:3", "", "0:0"])
def test_wrong_slices(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected START:STOP"):
        Choice(slice=wrong)


def test_wrong_limits() -> None:
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        Choice(limit=0)
