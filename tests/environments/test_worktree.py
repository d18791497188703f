"""Patches out of hostile work trees, and history that must not be readable."""

from collections.abc import Iterator

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.worktree import WorkTreeBase, extract_patch, forget_history, record_base
from srl_swe.errors import ContainerError

pytestmark = pytest.mark.docker
IMAGE = "srl-swe/base:bookworm"
GIT = "git -c user.name=a -c user.email=a@b"
SETUP = f"""
set -e
mkdir /repo && cd /repo && git init -q -b main
printf 'one\\ntwo\\n' >text.py
printf 'caf\\351\\n' >latin1.txt
printf '\\0\\1\\2' >image.bin
printf 'dos\\r\\nlines\\r\\n' >dos.txt
printf 'ignored/\\n' >.gitignore
mkdir folder && echo inner >folder/file
printf 'local-only\\n' >.git/info/exclude
git add -A && {GIT} commit -qm base
"""


@pytest.fixture
def repository(engine: Engine) -> Iterator[Container]:
    with Container.start(engine, IMAGE, name_hint="worktree") as container:
        _sh(container, SETUP)
        yield container


def _sh(container: Container, script: str) -> str:
    result = container.execute(["bash", "-c", script])
    assert result.exit_code == 0, result.output
    return result.output


def _apply_elsewhere(container: Container, base: WorkTreeBase, patch: str) -> None:
    """Apply the patch to a fresh checkout and compare the trees, file by file."""
    container.write_file("/patch.diff", patch.encode())
    _sh(container, f"git clone -q /repo /fresh && cd /fresh && git checkout -q {base.commit} && git apply /patch.diff")
    _sh(container, "diff -r -x .git -x ignored -x local-only -x __pycache__ /repo /fresh")


def test_everything_that_changed_round_trips(repository: Container) -> None:
    base = record_base(repository, "/repo")
    _sh(
        repository,
        """cd /repo && sed -i s/two/zwei/ text.py && printf 'th\\351\\n' >>latin1.txt && printf '\\3\\0' >>image.bin
        printf 'more\\r\\n' >>dos.txt && rm -r folder && mkdir 'new é folder'
        printf '\\0new' >'new é folder/b "q".bin'
        printf 'no newline' >end.txt && : >empty.txt && ln -s text.py link && echo '#!/bin/sh' >run && chmod +x run
        printf '\\351\\n' >'[odd]*name' && mkdir ignored && echo no >ignored/file && echo no >local-only
        mkdir __pycache__ && echo no >__pycache__/a.cpython-311.pyc""",
    )
    extracted = extract_patch(repository, "/repo", base)
    assert extracted.problem == ""
    assert "-two\n+zwei\n" in extracted.patch and "GIT binary patch" in extracted.patch
    assert "more\r\n" in extracted.patch
    for name in ("ignored/file", "local-only", "pyc"):
        assert name not in extracted.patch
    _apply_elsewhere(repository, base, extracted.patch)


def test_commits_and_the_index_make_no_difference(repository: Container) -> None:
    base = record_base(repository, "/repo")
    _sh(repository, f"cd /repo && echo three >>text.py && {GIT} commit -qam mine && echo four >>text.py && git add -A")
    _sh(repository, "cd /repo && git update-index --assume-unchanged folder/file && echo hidden >>folder/file")
    patch = extract_patch(repository, "/repo", base).patch
    assert "+three\n+four\n" in patch and "+hidden\n" in patch


def test_no_change_is_an_empty_patch(repository: Container) -> None:
    base = record_base(repository, "/repo")
    extracted = extract_patch(repository, "/repo", base)
    assert (extracted.patch, extracted.problem) == ("", "")


def test_hostile_configuration_runs_nothing_and_changes_nothing(repository: Container) -> None:
    base = record_base(repository, "/repo")
    _sh(
        repository,
        """cd /repo
        printf '#!/bin/sh\\ntouch /ran; cat\\n' >/evil && chmod +x /evil && cp /evil .git/hooks/post-index-change
        for scope in --local --global --system; do
          git config $scope core.fsmonitor /evil; git config $scope diff.external /evil
          git config $scope filter.f.clean /evil; git config $scope filter.f.process /evil
          git config $scope diff.d.textconv /evil; git config $scope core.hooksPath /repo/.git/hooks
          git config $scope core.worktree /tmp; git config $scope core.excludesFile /repo/all
          git config $scope color.ui always; git config $scope diff.noprefix true
        done
        echo '*' >all; echo '*' >.git/info/exclude; echo '*.py filter=f diff=d' >.git/info/attributes
        cp .git/info/attributes .gitattributes
        echo three >>text.py; rm -f /ran""",
    )
    extracted = extract_patch(repository, "/repo", base)
    assert extracted.problem == ""
    assert "diff --git a/text.py b/text.py" in extracted.patch and "+three\n" in extracted.patch
    assert repository.execute(["test", "-e", "/ran"]).exit_code == 1


def test_unreadable_files_and_repositories_inside(repository: Container) -> None:
    base = record_base(repository, "/repo")
    _sh(
        repository,
        """cd /repo && git init -q vendored && echo code >vendored/code.py && git init -q empty-repository
        echo secret >shut && chmod 000 shut && mkdir dark && echo deep >dark/deep && chmod 000 dark && mkfifo pipe""",
    )
    extracted = extract_patch(repository, "/repo", base)
    assert extracted.problem == ""
    for text in ("+code\n", "+secret\n", "+deep\n"):
        assert text in extracted.patch


@pytest.mark.parametrize(
    "command",
    ["rm -rf /repo/.git", "rm -rf /repo", "rm /usr/bin/git", "rm -f /usr/bin/bash /bin/bash", "rm -rf /usr/bin /bin/"],
)
def test_what_the_agent_destroyed_is_an_empty_patch_with_a_reason(repository: Container, command: str) -> None:
    base = record_base(repository, "/repo")
    repository.execute(["sh", "-c", command])
    extracted = extract_patch(repository, "/repo", base)
    assert extracted.patch == "" and extracted.problem


def test_later_history_is_gone(repository: Container) -> None:
    output = _sh(
        repository,
        f"""cd /repo && echo old >>text.py && {GIT} commit -qam old && git tag past
        git checkout -q -b future && echo answer >answer.py && git add -A && {GIT} commit -qm future && git tag later
        git rev-parse HEAD:answer.py && git update-ref refs/remotes/origin/main HEAD
        git remote add origin https://example.invalid/x.git && git checkout -q main && git gc -q""",
    )
    blob = output.splitlines()[-1]
    forget_history(repository, "/repo")
    assert repository.execute(["git", "-C", "/repo", "cat-file", "-e", blob]).exit_code != 0
    assert _sh(repository, "cd /repo && git for-each-ref --format='%(refname)'") == "refs/heads/main\nrefs/tags/past\n"
    assert (
        _sh(repository, "cd /repo && git remote && git reflog && git log --format=%s && git status --short")
        == "old\nbase\n"
    )


def test_a_folder_without_a_commit_is_not_a_work_tree(container: Container) -> None:
    with pytest.raises(ContainerError, match="git work tree"):
        record_base(container, "/usr")
    with pytest.raises(ContainerError):
        forget_history(container, "/no/such/folder")
