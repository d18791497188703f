"""Which instances of a set are chosen, in which order, and what a wrong choice says."""

from dataclasses import replace
from pathlib import Path

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
        ({"exclude_ids": ("django__*", "odd[1]")}, (NAMES[2], NAMES[4])),
        ({"instance_ids": ("*-1",), "exclude_ids": ("sympy__sympy-1",)}, NAMES[:1]),
        ({"exclude_ids": NAMES[:1], "slice": "0:1"}, NAMES[1:2]),
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
        ({"exclude_ids": ("nobody",)}, "1 instance ids are not among the 5 instances: nobody"),
        ({"exclude_ids": ("*",)}, "0 match the ids and repositories \\(5 are excluded\\)"),
        ({"slice": "5:9"}, "no instances to evaluate: of 5 instances, 5 match"),
        ({"instance_ids": ("sympy*",), "repo": ("django/django",)}, "no instance is of the repository django/django"),
    ],
)
def test_what_matches_nothing_is_named(parts: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        chosen(**parts)


def test_ids_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text(f"# of this machine\n\n{NAMES[2]}\n  {NAMES[0]}\n")
    assert chosen(instance_ids=(f"@{file}",)) == (NAMES[0], NAMES[2])
    assert chosen(instance_ids=(f"@{file}", "astropy*")) == (NAMES[0], NAMES[2], NAMES[4])
    assert chosen(exclude_ids=(f"@{file}",)) == (NAMES[1], NAMES[3], NAMES[4])
    file.write_text("\n")
    assert chosen(exclude_ids=(f"@{file}",)) == NAMES
    with pytest.raises(DataError, match="names no instance ids, expected one a line"):
        chosen(instance_ids=(f"@{file}",))
    with pytest.raises(DataError, match=r"absent\.txt: instance ids cannot be read"):
        chosen(exclude_ids=(f"@{tmp_path / 'absent.txt'}",))


def test_the_record_says_what_was_chosen(tmp_path: Path) -> None:
    assert Choice().described() == ""
    file = tmp_path / "ids.txt"
    file.write_text("a\nb\nc\nd\n")
    choice = Choice(instance_ids=("x*",), exclude_ids=(f"@{file}",), repo=("a/b",), shuffle=0, slice="0:5", limit=3)
    words = "--instance-ids x* --exclude-ids (4 ids) --repo a/b --shuffle 0 --slice 0:5 --limit 3"
    assert choice.described() == words


@pytest.mark.parametrize("wrong", ["5", "a:b", "5:5", "5:2", "-1:3", "1:2:3", "", "0:0"])
def test_wrong_slices(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected START:STOP"):
        Choice(slice=wrong)


def test_wrong_limits() -> None:
    with pytest.raises(ConfigError, match="limit must be at least 1"):
        Choice(limit=0)
