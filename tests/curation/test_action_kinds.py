"""Kinds of actions, checked by hand."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl_swe.curation.action_kinds import MEANINGS, ActionKind, action_kind

TABLE = [
    # The actions that tool calls are compiled to.
    ("edit view /testbed/a.py", "view"),
    ("edit view /testbed/a.py 1 -1", "view"),
    ("edit view 'a b.py' 1 20", "view"),
    ("edit create a.py -n <<'EOF'\nimport pytest\nEOF", "edit create"),
    ("edit replace a.py <<'EOF'\nold\n=======\nrm -rf /\nEOF", "edit replace"),
    ("edit lines a.py 2 3 <<'EOF'\ntwo\nEOF", "edit lines"),
    ("edit insert a.py 0 <<'EOF'\ngit grep x\nEOF", "edit insert"),
    ("edit undo a.py", "edit undo"),
    ("edit", "other"),
    ("submit", "submit"),
    ("cd /testbed && edit create a.py <<'EOF'\nx\nEOF", "edit create"),
    ("edit create a.py <<'EOF'\nx\nEOF\nsubmit", "submit"),
    # Looking around.
    ("ls -la", "list"),
    ("cd /testbed && ls", "list"),
    ("pwd", "list"),
    ("cat a.py", "view"),
    ("cat a.py | head -20", "view"),
    ("sed -n '1,20p' a.py", "view"),
    ("nl -ba a.py | sed -n 186,250p", "view"),
    ("diff -u <(cat a) <(cat b)", "view"),
    ("git status --short | head -3; cat -n a.py", "view"),
    ("grep -rn foo .", "search"),
    ("cat a.py | grep foo", "search"),
    ("git grep foo", "search"),
    ("find . -name '*.py' | sort", "search"),
    ("find . -name '*.py' | xargs grep -l foo", "search"),
    ("git log --oneline | head -2\nls src\ngrep -n 'a\\|b' x.py", "search"),
    ("for f in *.py; do grep foo $f; done", "search"),
    ("if [ -f a ]; then cat a; fi", "view"),
    ("T=$(grep -n foo a.py)", "search"),
    ("echo ---", "other"),
    ("cd /testbed", "other"),
    ("", "other"),
    ("# only a comment: pytest", "other"),
    # Tests and Python.
    ("pytest", "run tests"),
    ("cd /testbed && PYTHONPATH=. python -m pytest -q tests 2>&1 | tail -3", "run tests"),
    ("A=1 B='x y' timeout -k 5 60 python3.11 -W ignore -m pytest a.py::test", "run tests"),
    ("/opt/venv/bin/python -m unittest a.b", "run tests"),
    ("poetry run pytest -x", "run tests"),
    ("uv run --frozen pytest", "run tests"),
    ("coverage run -m pytest", "run tests"),
    ("./tests/runtests.py admin", "run tests"),
    ("python manage.py test app", "run tests"),
    ("python tests/run_tests.py", "run tests"),
    ("bin/test sympy/core", "run tests"),
    ("test -f a.py", "other"),
    ("make test", "run tests"),
    ("make -j4 check", "run tests"),
    ("make docs", "other"),
    ("npm test", "run tests"),
    ("bash -lc 'cd /testbed && pytest -q'", "run tests"),
    ("git stash; python -m pytest; git stash pop", "run tests"),
    ("grep -n x a.py; python -m pytest -q", "run tests"),
    ("python test_edge_cases.py", "run python"),
    ("cd /w && python3 reproduce.py -k test_moto", "run python"),
    ("./reproduce.py", "run python"),
    ("python -c 'import pytest; print(1)'", "run python"),
    ("python - <<'EOF'\nimport subprocess\nsubprocess.run('git commit')\nEOF", "run python"),
    ("cat <<'EOF' | python\nprint(1)\nEOF", "run python"),
    ("python a.py > out.txt 2>&1; cat out.txt", "run python"),
    ("python -m mypy a.py", "run python"),
    ("mypy --strict a.py", "other"),
    # Changes.
    ("cat > /tmp/a.py <<'EOF'\nimport pytest\nEOF\npython /tmp/a.py", "edit create"),
    ("cat <<-EOF >a.py\n\tx\n\tEOF", "edit create"),
    ("echo 'x' > a.py", "edit create"),
    ("echo 'a > b'", "other"),
    ("printf x | tee a.txt", "edit create"),
    ("echo x | tee -a a.txt", "edit insert"),
    ("echo x >> a.py", "edit insert"),
    ("grep x a.py > out.txt", "search"),
    ("ls > /dev/null", "list"),
    ("cat a.py 2> err.txt", "view"),
    ("sed -i 's/a/b/' a.py && git diff", "edit replace"),
    ("sed --in-place=.bak 's/a/b/' a.py", "edit replace"),
    ("perl -pi -e 's/a/b/' a.py", "edit replace"),
    ("find . -name '*.py' -exec sed -i 's/a/b/' {} +", "edit replace"),
    ("find . -name '*.pyc' -delete", "file operations"),
    ("patch -p1 < a.patch", "edit replace"),
    ("git apply a.patch", "edit replace"),
    ("git diff", "git"),
    ("git --no-pager log | head", "git"),
    ("cd /testbed; git checkout -- a.py", "git"),
    ("rm -rf build && ls", "file operations"),
    ("mkdir -p a/b", "file operations"),
    ("chmod +x a.sh", "file operations"),
    ("pip install -e .", "install"),
    ("python -m pip install foo", "install"),
    ("sudo apt-get install -y foo", "install"),
    ("uv pip install foo", "install"),
    ("uv sync", "install"),
    ("python setup.py develop", "install"),
    ("pip list", "other"),
    ("pip install foo && python -m pytest", "run tests"),
    # Text that is no shell.
    ("echo 'unfinished", "other"),
    ('grep "unfinished', "search"),
    ("cat <<EOF\nnever closed", "view"),
    ("&& | ; (", "other"),
]


@pytest.mark.parametrize(("action", "kind"), TABLE, ids=[action[:40] for action, _ in TABLE])
def test_the_kind_is_the_one_a_person_would_name(action: str, kind: str) -> None:
    assert action_kind(action) == kind


def test_every_kind_has_a_meaning_and_an_example() -> None:
    assert set(MEANINGS) == set(ActionKind) == {ActionKind(kind) for _, kind in TABLE}


@given(st.text(alphabet="ab'\"\\$(){}<>|&;`\n\t #=-EOFcatpython/.*", max_size=60))
def test_any_text_has_a_kind(action: str) -> None:
    assert action_kind(action) in ActionKind


@pytest.mark.parametrize(
    "unit", ['"', "'", "`", "\\", "((", "$(", "<<a ", "a<<E\n", "env ", "A=1 ", "find -exec ", "bash -c ", "# ", "\\\n"]
)
def test_hostile_texts_take_no_time(unit: str) -> None:
    started = time.monotonic()
    action_kind(unit * (100_001 // len(unit)))
    assert time.monotonic() - started < 5
