"""The split by instance and by repository, and the repository of an instance."""

import pytest

from srl_swe.trajectories.splits import repo_of, split_by_instance


@pytest.mark.parametrize(
    ("instance_id", "repo"),
    [
        ("django__django-11001", "django__django"),
        ("scikit-learn__scikit-learn-13496", "scikit-learn__scikit-learn"),
        ("Project-MONAI__MONAI-1234", "project-monai__monai"),
        ("marshmallow-code__apispec.8b421526.pr_828", "marshmallow-code__apispec"),
        ("encode__starlette.db5063c2.func_pm_ctrl_invert_if__4rlzlhrp", "encode__starlette"),
        ("python-jsonschema__jsonschema.93e0caa5.lm_rewrite__abc", "python-jsonschema__jsonschema"),
        ("tkrajina__gpxpy.09fc46b3.combine_file__x", "tkrajina__gpxpy"),
        ("moto-0123456789ab", "moto-0123456789ab"),
    ],
)
def test_the_repository_of_an_instance(instance_id: str, repo: str) -> None:
    assert repo_of(instance_id) == repo


def test_whole_repositories_are_held_out() -> None:
    ids = [f"o__r{repo}-{number}" for repo in range(10) for number in range(5)]
    held_out = split_by_instance(ids, num_validation=3, seed=1, unit="repo")
    assert len(held_out) == 15
    assert len({repo_of(instance_id) for instance_id in held_out}) == 3
    assert not {repo_of(i) for i in held_out} & {repo_of(i) for i in ids if i not in held_out}
    assert split_by_instance(ids, num_validation=3, seed=1, unit="repo") == held_out
    assert split_by_instance(ids, num_validation=3, seed=2, unit="repo") != held_out
