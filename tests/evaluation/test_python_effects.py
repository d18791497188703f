"""What Python code would do, told from its text."""

import pytest

from srl_swe.evaluation.python_effects import PythonEffects, python_effects


@pytest.mark.parametrize(
    ("code", "effects"),
    [
        ("import os; os.system('git log')", PythonEffects(commands=("git log",))),
        (
            "import subprocess as sp\nsp.run(['a', 'b c', x])",
            PythonEffects(commands=("a 'b c' '?'",)),
        ),
        ("u = 'https://a.io'\nurlopen(u)", PythonEffects(urls=("https://a.io",))),
        ("requests.request('GET', 'http://a.io/x')", PythonEffects(urls=("http://a.io/x",))),
        ("d.get('key'); q.get('https')", PythonEffects()),
        ("open('a'); open('b', 'w'); open('c', mode='r+'); open(name)", PythonEffects(reads=("a",), writes=("b", "c"))),
        (
            "p = Path('x') / 'y'\np.write_text(p.read_text())\n(p / 'z').open('w')",
            PythonEffects(reads=("x/y",), writes=("x/y", "x/y/z")),
        ),
        ("import shutil, os\nshutil.copy('a', 'b'); os.remove('c')", PythonEffects(writes=("b", "c"))),
        ("'a'.replace('b', 'c')", PythonEffects()),
        ("def f(:", PythonEffects()),
        ("\0", PythonEffects()),
        ("", PythonEffects()),
        ("(" * 5000 + ")" * 5000, PythonEffects()),
        ("x = " + "+".join(["'a'"] * 20_000), PythonEffects()),
        ("os.system('a')\n" + "#" * 200_000, PythonEffects()),
    ],
    ids=range(15),
)
def test_effects(code: str, effects: PythonEffects) -> None:
    assert python_effects(code) == effects
