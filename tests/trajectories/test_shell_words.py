"""Shell text taken apart, checked by hand."""

import pytest

from srl_swe.trajectories.shell_words import SimpleCommand, after_option, simple_commands, without_wrappers


def test_simple_commands_have_words_and_what_they_write() -> None:
    text = "A=1 sed -n 1p 'a b' > out 2>&1 | grep \"x y\" # no\ncat <<'E' >>log\nrm x\nE\nls"
    assert list(simple_commands(text)) == [
        SimpleCommand(words=("sed", "-n", "1p", "a b"), writes=((">", "out"),)),
        SimpleCommand(words=("grep", "x y"), writes=(), piped=True),
        SimpleCommand(words=("cat",), writes=((">>", "log"),), given="rm x\n"),
        SimpleCommand(words=("ls",), writes=()),
    ]


def test_a_here_document_belongs_to_the_command_that_reads_it() -> None:
    text = "ls; cat <<A - <<B | python; pwd\n1\nA\n2\nB\nwc <<-'C'\n\t3\n\tC\n<<D\n4\nD\ntail <<E\nno end"
    assert [(command.words[0], command.given, command.piped) for command in simple_commands(text)] == [
        ("ls", "", False),
        ("cat", "1\n2\n", False),
        ("python", "", True),
        ("pwd", "", False),
        ("wc", "\t3\n", False),
        ("tail", "no end", False),
    ]


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("timeout -k 5 60 env A=1 python x.py", "python x.py"),
        ("uv run --frozen pytest", "pytest"),
        ("sudo", ""),
        ("ls -l", "ls -l"),
    ],
)
def test_programs_that_run_others(words: str, rest: str) -> None:
    assert without_wrappers(tuple(words.split())) == tuple(rest.split())


def test_what_follows_an_option() -> None:
    assert after_option(("-W", "ignore", "-lc", "ls"), "c") == "ls"
    assert after_option(("x.py", "-c", "ls"), "c") is None
    assert after_option(("-c",), "c") == ""
