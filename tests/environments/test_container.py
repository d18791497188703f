"""One container: commands, files, isolation, its certain end."""

import contextlib
import os
import socket
import time
from pathlib import Path

import pytest

from srl_swe.environments.connect import connect_engine
from srl_swe.environments.container import Container
from srl_swe.environments.docker_engine import DockerEngine
from srl_swe.environments.engine import Engine
from srl_swe.environments.limits import ContainerLimits
from srl_swe.errors import ConfigError, ContainerError, DataError, EngineUnavailableError, ImageError

pytestmark = pytest.mark.docker
IMAGE = "srl-swe/base:bookworm"
SMALL = ContainerLimits(memory_bytes=128 << 20, max_processes=64)


def _processes(container: Container) -> list[str]:
    """Command lines of everything but init and the `ps` itself."""
    lines = container.execute(["ps", "-eo", "pid=,args="]).output.splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.split()[0] != "1" and "ps -eo" not in line]


def test_output_is_merged_in_order_and_the_exit_code_kept(container: Container) -> None:
    result = container.execute(["sh", "-c", "echo a; echo b >&2; echo c; exit 3"])
    assert (result.output, result.exit_code, result.timed_out) == ("a\nb\nc\n", 3, False)


def test_environment_and_workdir(container: Container) -> None:
    result = container.execute(["sh", "-c", 'echo "$GREETING $PWD"'], environment={"GREETING": "hi"}, workdir="/usr")
    assert result.output == "hi /usr\n"


def test_stdin_is_empty_and_a_missing_program_is_an_ordinary_failure(container: Container) -> None:
    assert container.execute(["cat"], timeout_s=10).exit_code == 0
    result = container.execute(["no-such-program"])
    assert result.exit_code == 127 and "not found" in result.output


def test_a_missing_workdir_is_not_an_observation(container: Container) -> None:
    with pytest.raises(ContainerError, match="could not be started"):
        container.execute(["true"], workdir="/etc/passwd")


def test_long_output_keeps_head_and_tail(container: Container) -> None:
    result = container.execute(["sh", "-c", "echo first; seq 1000000; echo last"], max_output_bytes=1000)
    assert result.output.startswith("first\n") and result.output.endswith("last\n")
    assert result.omitted_bytes == 6_888_896 + len("first\nlast\n") - 1000
    assert f"{result.omitted_bytes} bytes left out" in result.output


def test_a_background_process_does_not_hold_the_call(container: Container) -> None:
    result = container.execute(["sh", "-c", "sleep 600 & echo started"], timeout_s=30)
    assert (result.output, result.exit_code) == ("started\n", 0)
    assert result.duration_s < 5
    container.kill_processes()


def test_the_limit_ends_the_whole_tree(container: Container) -> None:
    script = "echo begun; setsid sleep 601 & (trap '' INT TERM HUP; sleep 602) & sleep 603"
    result = container.execute(["sh", "-c", script], timeout_s=1)
    assert (result.output, result.exit_code, result.timed_out) == ("begun\n", None, True)
    assert result.duration_s < 4
    assert _processes(container) == []


def test_a_fork_bomb_ends_and_files_stay(engine: Engine) -> None:
    with Container.start(engine, IMAGE, limits=SMALL) as container:
        container.write_file("/kept", b"kept")
        result = container.execute(["bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 600"], timeout_s=2)
        assert result.timed_out and result.duration_s < 20
        assert _processes(container) == []
        assert container.read_file("/kept") == b"kept"


def test_init_cannot_be_ended_from_inside(container: Container) -> None:
    container.execute(["bash", "-c", "kill -TERM 1; kill -KILL 1; kill -KILL -1; echo x >/proc/1/fd/3"], timeout_s=10)
    assert container.is_running()


def test_orphans_are_reaped(container: Container) -> None:
    container.execute(["bash", "-c", "for i in 1 2 3 4 5; do (sleep 0.05 &); done; sleep 0.3"])
    assert "<defunct>" not in container.execute(["ps", "-ef"]).output


@pytest.mark.parametrize("data", [b"", b"\0\xff\r\n" * 1000, b"x" * 3_000_000])
def test_files_go_in_and_out_unchanged(container: Container, data: bytes) -> None:
    container.write_file("/new folder/deeper/file", data, mode=0o755)
    assert container.read_file("/new folder/deeper/file") == data
    assert container.execute(["stat", "-c", "%a %u", "/new folder/deeper/file"]).output == "755 0\n"


def test_read_follows_links_and_refuses_the_rest(container: Container) -> None:
    container.write_file("/links/target", b"content")
    container.execute(["sh", "-c", "cd /links; ln -s target a; ln -s ../links/a b; ln -s loop loop; mkdir folder"])
    assert container.read_file("/links/b") == b"content"
    with pytest.raises(FileNotFoundError):
        container.read_file("/links/missing")
    with pytest.raises(FileNotFoundError):
        container.read_file("/links/loop")
    with pytest.raises(IsADirectoryError):
        container.read_file("/links/folder")
    with pytest.raises(DataError, match="at most 3"):
        container.read_file("/links/target", max_bytes=3)
    with pytest.raises(ValueError, match="absolute"):
        container.read_file("links/target")


def test_archives_go_round(container: Container) -> None:
    container.write_file("/packed/a/b", b"\0b")
    container.execute(["mkdir", "/unpacked"])
    container.put_archive("/unpacked", container.get_archive("/packed"))
    assert container.read_file("/unpacked/packed/a/b") == b"\0b"
    if not container.engine.name.startswith("podman"):  # makes the folder
        with pytest.raises(ContainerError):
            container.put_archive("/no/such/folder", container.get_archive("/packed"))


def test_no_capabilities_and_no_way_to_new_ones(container: Container) -> None:
    status = container.execute(["cat", "/proc/self/status"]).output
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    attacks = [
        "mount -t tmpfs none /mnt",
        "mknod /dev/own b 8 0",
        "chroot / true",
        "chown 1:1 /etc/passwd",
        "unshare -m true",
    ]
    for attack in attacks:
        assert container.execute(["sh", "-c", attack]).exit_code != 0, attack


def test_no_network(container: Container) -> None:
    assert container.execute(["ls", "/sys/class/net"]).output.split() == ["lo"]
    with socket.create_server(("0.0.0.0", 0)) as server:
        connect = f"import socket; socket.create_connection(('{_own_address()}', {server.getsockname()[1]}), 2)"
        result = container.execute(["python3", "-c", connect])
    assert result.exit_code == 1 and "unreachable" in result.output


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_nothing_of_the_host_gets_in(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://proxy-secret:1"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOST_SECRET", "host-secret")
    with contextlib.ExitStack() as stack:
        # What the client reads of its surroundings it reads when it connects.
        other = stack.enter_context(connect_engine()) if engine.name.startswith("docker") else engine
        container = stack.enter_context(Container.start(other, IMAGE))
        assert container.execute(["env"]).output.lower().count("secret") == 0
        assert container.execute(["cat", "/proc/1/environ"]).output.lower().count("secret") == 0
        assert container.execute(["hostname"]).output == "srl-swe\n"
        assert os.uname().nodename not in container.execute(["cat", "/etc/hosts"]).output.split()
        if isinstance(other, DockerEngine):
            assert other.client.api.inspect_container(container.name)["Mounts"] == []


def test_memory_beyond_the_limit_ends_only_the_eater(engine: Engine) -> None:
    with Container.start(engine, IMAGE, limits=SMALL) as container:
        result = container.execute(["python3", "-c", "x = b'x' * (1 << 30)"], timeout_s=60)
        # Without a cgroup the limit holds for each process, which then gets a MemoryError.
        assert result.exit_code == (1 if any("memory" in gap for gap in engine.gaps) else 137)
        assert container.execute(["echo", "alive"]).output == "alive\n"


def test_processes_are_limited(engine: Engine) -> None:
    with Container.start(engine, IMAGE, limits=SMALL) as container:
        script = (
            "import os, time\n"
            "for number in range(1000):\n"
            "    try: child = os.fork()\n"
            "    except OSError as error: print(number, error); break\n"
            "    if not child: time.sleep(600)\n"
        )
        result = container.execute(["python3", "-c", script], timeout_s=20)
        assert "Resource temporarily unavailable" in result.output
        assert int(result.output.split()[0]) < 64


def test_close_is_quick_whatever_runs_and_idempotent(engine: Engine) -> None:
    closing_s = []
    for _ in range(3):
        container = Container.start(engine, IMAGE, name_hint="a/ weird ñame")
        assert container.is_running()
        container.execute(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & true"])
        started = time.monotonic()
        container.close()
        closing_s.append(time.monotonic() - started)
        container.close()
        assert not container.is_running()
        with pytest.raises(ContainerError, match="closed"):
            container.execute(["true"])
    assert min(closing_s) < 0.3


def test_a_container_removed_from_outside_is_an_error_not_a_result(engine: Engine) -> None:
    with Container.start(engine, IMAGE) as container:
        engine.remove(container.name)
        assert not container.is_running()
        with pytest.raises(ContainerError):
            container.execute(["true"])
        with pytest.raises(ContainerError):
            container.kill_processes()


def test_a_container_that_dies_under_a_command_is_an_error(engine: Engine) -> None:
    with Container.start(engine, IMAGE) as container:
        engine.remove(container.name)
        with pytest.raises(ContainerError, match=r"(?i)no such container|no longer runs"):
            container.execute(["true"])


def test_no_connections_are_left_open(engine: Engine, container: Container) -> None:
    container.execute(["true"])
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(10):
        container.execute(["true"])
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208


def test_a_missing_image_and_a_missing_engine_have_their_errors(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="no-such-image"):
        Container.start(engine, "srl-swe/no-such-image:none")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailableError, match="srl-swe doctor"):
        connect_engine()


def test_limits_name_the_field_that_is_wrong() -> None:
    with pytest.raises(ConfigError, match="memory_bytes"):
        ContainerLimits(memory_bytes=0)
