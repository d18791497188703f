"""The persistent shell, under commands that mean it harm."""

import resource
import time
from collections.abc import Iterator

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.shell import Shell
from srl_swe.errors import ContainerError
from srl_swe.types import CommandResult

pytestmark = pytest.mark.docker
IMAGE = "srl-swe/base:bookworm"


@pytest.fixture
def shell(container: Container) -> Iterator[Shell]:
    with Shell(container, workdir="/root", activate="export ACTIVE=yes") as shell:
        yield shell


def _run(shell: Shell, command: str, timeout_s: float = 20) -> CommandResult:
    return shell.run(command, timeout_s=timeout_s)


def _assert_usable(shell: Shell) -> None:
    result = _run(shell, "echo usable $ACTIVE")
    assert (result.output, result.exit_code, result.shell_replaced) == ("usable yes\n", 0, False)


def test_state_persists(shell: Shell) -> None:
    _run(shell, "cd /usr/lib && export A=1; b=2; f() { echo f-$1; }; declare -A map=([k]=v); alias hi='echo hello'")
    assert _run(shell, "pwd; echo $A$b; f x; echo ${map[k]}").output == "/usr/lib\n12\nf-x\nv\n"
    assert _run(shell, "hi").output == "hello\n"
    assert shell.workdir == "/usr/lib"


def test_streams_are_merged_in_order(shell: Shell) -> None:
    assert _run(shell, "echo a; echo b >&2; echo c").output == "a\nb\nc\n"


def test_streams_come_apart_when_asked(shell: Shell) -> None:
    result = shell.run("echo a; echo b >&2; echo c; (exit 3)", timeout_s=20, separate_streams=True)
    assert (result.output, result.errors, result.exit_code) == ("a\nc\n", "b\n", 3)
    long = shell.run("seq 100000 >&2; echo end", timeout_s=60, separate_streams=True, max_output_bytes=100)
    assert long.output == "end\n" and long.errors.startswith("1\n2\n") and long.errors.endswith("100000\n")
    assert "bytes left out" in long.errors
    killed = shell.run("echo before >&2; sleep 60", timeout_s=1, separate_streams=True)
    assert killed.timed_out and killed.errors.startswith("before\n")
    assert _run(shell, "echo a; echo b >&2").output == "a\nb\n"


def test_exit_codes_and_the_status_variable(shell: Shell) -> None:
    assert _run(shell, "true").exit_code == 0
    assert _run(shell, "(exit 5)").exit_code == 5
    assert _run(shell, "echo $?").output == "5\n"
    assert _run(shell, "echo $?").output == "0\n"
    assert _run(shell, "no-such-program").output == "bash: no-such-program: command not found\n"
    assert _run(shell, "sh -c 'kill -SEGV $$'").exit_code == 139


@pytest.mark.parametrize(
    ("command", "text", "exit_code"),
    [
        ("echo 'open", "unexpected EOF", 2),
        ("if true; then", "syntax error", 2),
        (")", "syntax error", 2),
        ("cat <<EOF\nin\nEOF", "in\n", 0),
        ("cat <<EOF\nunfinished", "unfinished\n", 0),
        ("echo $((1/0)); echo no", "division by 0", 1),
        ("echo ${unset?message}; echo no", "message", 1),
        ("return 7", "", 7),
        ("break; continue; echo after", "after\n", 0),
        ("# only a comment", "", 0),
        ("", "", 0),
        ("echo a\n\n\necho b", "a\nb\n", 0),
        ("echo $'\\''; echo \"'\"", "'\n'\n", 0),
        ("cat; read x; echo $?", "1\n", 0),
        ("yes | head -n 1", "y\n", 0),
        ("exec >&-; exec 2>&-; echo lost", "", 1),
        ("exec 1>/dev/null 0<&-", "", 0),
        ("sleep 500 &", "", 0),
        ("(sleep 500; echo late) & disown", "", 0),
        ("nohup sleep 500 >/dev/null 2>&1 &", "", 0),
        ("printf '\\033[31mred\\033[0m\\r\\n'", "\x1b[31mred\x1b[0m\r\n", 0),
        ("printf 'a\\xff\\xfeb'", "a\ufffd\ufffdb", 0),
        ("printf 'a\\0b'", "a\0b", 0),
        ("echo é日本", "é日本\n", 0),
        ("echo \ud800", "\ufffd", 0),
        ("echo -n " + "x" * 200_000 + " | wc -c", "200000\n", 0),
    ],
)
def test_commands_that_the_shell_survives(shell: Shell, command: str, text: str, exit_code: int) -> None:
    result = _run(shell, command)
    assert text in result.output and result.exit_code == exit_code
    assert not result.shell_replaced and result.duration_s < 5
    if not text:
        assert result.output == ""
    _assert_usable(shell)


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        ("exit 3", 3),
        ("exec true", 0),
        ("exec no-such-program", 127),
        ("kill -9 $$", 137),
        ("set -e; false; echo no", 1),
        ("sleep 500 & exit 4", 4),
    ],
)
def test_commands_that_end_the_shell(shell: Shell, command: str, exit_code: int) -> None:
    _run(shell, "cd /usr; X=lost")
    result = _run(shell, command)
    assert (result.exit_code, result.shell_replaced, result.timed_out) == (exit_code, True, False)
    assert "no\n" not in result.output
    assert _run(shell, 'echo "$PWD $X"').output == "/usr \n"
    _assert_usable(shell)


@pytest.mark.parametrize(
    "command",
    [
        "echo begun; sleep 600",
        "echo begun; setsid sleep 601 & trap '' INT; sleep 602; sleep 603",
        "echo begun; exec sleep 604",
        "echo begun; while :; do :; done",
        "echo begun; python3 -c 'import signal,time; signal.signal(2, signal.SIG_IGN); time.sleep(605)'",
        "echo begun; builtin() { :; }; eval() { :; }; printf() { :; }",
    ],
)
def test_the_limit_ends_everything_and_keeps_the_output(shell: Shell, container: Container, command: str) -> None:
    _run(shell, "cd /usr/share")
    result = _run(shell, command, timeout_s=1)
    assert (result.exit_code, result.timed_out, result.shell_replaced) == (None, True, True)
    assert result.output.startswith("begun\n")
    assert result.duration_s < 8
    assert "sleep" not in container.execute(["ps", "-eo", "args"]).output
    assert _run(shell, "pwd").output == "/usr/share\n"
    _assert_usable(shell)


def test_closing_every_descriptor_costs_the_shell_at_most(shell: Shell) -> None:
    result = _run(shell, 'for fd in {0..255}; do eval "exec $fd>&-"; done', timeout_s=2)
    assert result.shell_replaced and result.exit_code != 0
    _assert_usable(shell)


def test_killing_everything_spares_the_shell_that_does_it(shell: Shell) -> None:
    _run(shell, "sleep 600 &")
    assert not _run(shell, "kill -9 -1").shell_replaced
    _assert_usable(shell)


def test_an_interrupted_program_has_its_last_word(shell: Shell) -> None:
    script = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('summary')"
    assert "summary" in _run(shell, f'python3 -c "{script}"', timeout_s=1).output


def test_a_directory_that_is_gone_is_replaced_by_the_first_one(shell: Shell) -> None:
    _run(shell, "mkdir /gone; cd /gone; rmdir /gone")
    assert _run(shell, "exit 0").shell_replaced
    assert _run(shell, "pwd").output == "/root\n"


def test_a_fork_bomb_costs_the_shell_and_no_more(engine: Engine) -> None:
    limits = ContainerLimits(memory_bytes=256 << 20, max_processes=64)
    with Container.start(engine, IMAGE, limits=limits) as container, Shell(container, workdir="/root") as shell:
        _run(shell, "echo kept > /srv/file")
        result = _run(shell, "bomb() { bomb | bomb & }; bomb; sleep 600", timeout_s=2)
        assert result.timed_out and result.shell_replaced and result.duration_s < 20
        assert _run(shell, "cat /srv/file; ps -e --no-headers | wc -l").output == "kept\n4\n"


@pytest.mark.slow
def test_a_gigabyte_of_output_needs_no_memory(shell: Shell) -> None:
    _run(shell, "yes | head -c 10000000")
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = _run(shell, "echo first; yes abcdefghi | head -c 1000000000; echo last", timeout_s=300)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert result.output.startswith("first\nabc") and result.output.endswith("last\n")
    assert result.omitted_bytes == 1_000_000_000 + len("first\nlast\n") - 64_000
    assert len(result.output) < 65_000
    assert grown_kib < 8 * 1024
    _assert_usable(shell)


def test_endless_output_ends_at_the_limit(shell: Shell) -> None:
    result = _run(shell, "yes", timeout_s=1)
    assert result.timed_out and result.omitted_bytes > 0 and result.duration_s < 6
    _assert_usable(shell)


def test_noise_from_the_background_does_not_hide_the_end(shell: Shell) -> None:
    _run(shell, "yes noise &")
    result = _run(shell, "echo mine", timeout_s=30)
    assert (result.exit_code, result.timed_out) == (0, False)
    _run(shell, "kill %1 || pkill yes", timeout_s=30)


def test_a_nul_character_is_refused_as_an_observation(shell: Shell) -> None:
    result = _run(shell, "echo a\0b")
    assert result.exit_code == 2 and "NUL" in result.output and not result.shell_replaced


def test_host_variables_stay_out(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "1")
    assert "HOST_SECRET" not in _run(shell, "env").output
    assert _run(shell, "ls /proc/self/fd").output.split() == ["0", "1", "2", "3"]


def test_a_shell_whose_processes_were_ended_comes_back(shell: Shell, container: Container) -> None:
    container.kill_processes()
    result = _run(shell, "echo back")
    assert (result.output, result.exit_code, result.shell_replaced) == ("back\n", 0, True)
    _assert_usable(shell)


def test_a_container_without_bash_is_data_as_long_as_it_runs(engine: Engine) -> None:
    with Container.start(engine, IMAGE) as container, Shell(container, workdir="/root") as shell:
        _run(shell, "rm -rf /bin/bash /usr/bin/bash; exit")
        result = _run(shell, "ls")
        assert result.exit_code == 127 and "no shell" in result.output


def test_a_dead_container_is_an_error_never_an_observation(engine: Engine) -> None:
    with Container.start(engine, IMAGE) as container, Shell(container, workdir="/root") as shell:
        engine.remove(container.name)
        with pytest.raises(ContainerError, match="no longer runs"):
            _run(shell, "echo hi")


def test_a_bad_start_is_an_error(container: Container) -> None:
    with pytest.raises(ContainerError, match="No such file"):
        Shell(container, workdir="/no/such/folder")
    with pytest.raises(ContainerError, match="exit code 9"):
        Shell(container, workdir="/", activate="echo why; (exit 9)")


def test_a_command_costs_about_a_millisecond(shell: Shell) -> None:
    started = time.monotonic()
    for _ in range(200):
        _run(shell, "true")
    assert (time.monotonic() - started) / 200 < 0.01
