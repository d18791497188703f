"""The embedded engine beyond what every engine is tested for: records, images, and what a killed owner leaves."""

import contextlib
import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.embedded.engine import EmbeddedEngine
from srl_swe.environments.embedded.image_archives import load_archive
from srl_swe.environments.engine import ContainerSpec, ContainerState, Exec
from srl_swe.environments.leases import collect_garbage
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.shell import Shell
from srl_swe.errors import ContainerError, EngineUnavailableError, ImageError
from tests.environments.embedded import CACHE, IMAGE, engine_with_base_image

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedEngine]:
    """An engine whose folder nobody else uses."""
    folder = CACHE / f"embedded-{os.getpid()}"
    try:
        with engine_with_base_image(folder) as engine:
            yield engine
            for image in engine.images.all():
                engine.remove_image(image.id)
            assert _names(folder / "layers") == _names(folder / "containers") == set()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def box(embedded: EmbeddedEngine) -> Iterator[Container]:
    with Container.start(embedded, IMAGE) as container:
        yield container


def _folder(engine: EmbeddedEngine) -> Path:
    return engine.__reduce__()[1][0]


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _processes_in(folder: Path) -> list[str]:
    """Ids of the host's processes that see the files of a container in an engine's folder."""
    mark = f"srl-swe:{folder.stat().st_dev}.{folder.stat().st_ino}:"
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and mark in (entry / "mountinfo").read_text():
                found.append(entry.name)
    return found


def _cgroups_of(name: str) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").rglob(f"*{name}*") if path.is_dir()]


def _read(execution: Exec, timeout_s: float = 10) -> bytes:
    data, deadline = b"", time.monotonic() + timeout_s
    while (payloads := execution.receive(timeout_s=0.1)) is not None and time.monotonic() < deadline:
        data += b"".join(payload for _, payload in payloads)
    return data


def test_the_streams_of_an_exec(embedded: EmbeddedEngine, box: Container) -> None:
    execution = embedded.exec(box.name, ["sh", "-c", "cat; echo err >&2; exit 5"], user="0:0", stdin=True)
    assert execution.exit_code() is None and execution.receive(timeout_s=0.05) == []
    execution.send(b"\0in" * 100, timeout_s=5)
    assert execution.receive(timeout_s=5) == [(1, b"\0in" * 100)]
    execution.close()
    execution.close()
    with pytest.raises(OSError):
        execution.send(b"more", timeout_s=1)
    deadline = time.monotonic() + 5
    while (code := execution.exit_code()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert code is not None  # closing stdout may have ended it by SIGPIPE


def test_what_does_not_read_is_an_oserror(embedded: EmbeddedEngine, box: Container) -> None:
    execution = embedded.exec(box.name, ["sleep", "600"], user="0:0", stdin=True)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        execution.send(bytes(1 << 20), timeout_s=0.3)
    assert time.monotonic() - started < 2
    execution.close()


@pytest.mark.parametrize(
    ("argv", "why"),
    [(["/etc/passwd"], "Permission denied"), (["/no/such"], "No such file"), (["a\0b"], "null"), (["/etc"], "denied")],
)
def test_what_cannot_be_executed(embedded: EmbeddedEngine, box: Container, argv: list[str], why: str) -> None:
    with pytest.raises(ContainerError, match=f"could not be started.*{why}"):
        embedded.exec(box.name, argv, user="0:0")
    assert embedded.exec(box.name, ["true"], user="0:0").receive(timeout_s=5) is None


def test_signals_and_exit_codes(embedded: EmbeddedEngine, box: Container) -> None:
    for command, code in (("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255)):
        execution = embedded.exec(box.name, ["sh", "-c", command], user="0:0")
        assert _read(execution) == b"" and execution.exit_code() == code
        execution.close()


def test_restart_ends_everything_and_keeps_files(embedded: EmbeddedEngine, box: Container) -> None:
    box.write_file("/kept", b"kept")
    box.execute(["rm", "/etc/debian_version"])
    execution = embedded.exec(box.name, ["sleep", "600"], user="0:0")
    embedded.restart(box.name)
    assert _read(execution) == b"" and execution.exit_code() == 137
    execution.close()
    assert box.read_file("/kept") == b"kept"
    with pytest.raises(FileNotFoundError):
        box.read_file("/etc/debian_version")
    assert "sleep" not in box.execute(["ps", "-eo", "args"]).output


def test_the_states_of_a_container(embedded: EmbeddedEngine) -> None:
    assert embedded.state("no-such") == ContainerState(running=False, status="removed")
    limits = ContainerLimits(memory_bytes=16 << 20)
    spec = ContainerSpec(image=IMAGE, name="t-state", labels={}, limits=limits, init=("/bin/bash", "-c", "exit 3"))
    embedded.start(spec)
    try:
        deadline = time.monotonic() + 5
        while embedded.state("t-state").running and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert embedded.state("t-state") == ContainerState(running=False, status="exited", exit_code=3)
        with pytest.raises(ContainerError, match="not running"):
            embedded.exec("t-state", ["true"], user="0:0")
        with pytest.raises(ContainerError, match="t-state"):
            embedded.start(spec)  # the name is taken
    finally:
        assert embedded.remove("t-state") and not embedded.remove("t-state")
    assert _cgroups_of("t-state") == []


def test_an_init_that_memory_ran_out_for(embedded: EmbeddedEngine) -> None:
    if any("memory is limited for each process" in gap for gap in embedded.gaps):
        pytest.skip("no writable memory cgroup")
    with Container.start(embedded, IMAGE, limits=ContainerLimits(memory_bytes=8 << 20)) as container:
        for number in range(5):
            with contextlib.suppress(ContainerError):
                container.execute(["sh", "-c", f"head -c 100M /dev/zero >/dev/shm/{number}"])
        state = embedded.state(container.name)
        assert (state.running, state.exit_code, state.out_of_memory) == (False, 137, True)


def test_what_was_written_is_counted_and_removed_whatever_it_is(embedded: EmbeddedEngine) -> None:
    with Container.start(embedded, IMAGE) as container:
        before = embedded.written_bytes(container.name)
        script = (
            "mkdir -m 0 /closed; head -c 10M /dev/urandom >/hidden; mkdir /a; cd /a; ln -s / root; mkfifo pipe; "
            "touch $(printf '/a/\\377\\n'); python3 -c \"import os\n"
            "for _ in range(1500): os.mkdir('d' * 9), os.chdir('d' * 9)\n"
            "open('deep', 'wb').write(os.urandom(10 << 20))\""
        )
        result = container.execute(["bash", "-c", script])
        assert "No space" not in result.output
        assert embedded.written_bytes(container.name) - before > 20 << 20
        name = container.name
    assert not (_folder(embedded) / "containers" / name).exists()
    assert not any(path.startswith(".") for path in _names(_folder(embedded) / "containers"))


def test_a_commit_keeps_files_as_they_are(embedded: EmbeddedEngine, box: Container) -> None:
    script = (
        "rm -rf /usr/share/perl5 /etc/debian_version; mkdir /usr/share/perl5; echo new >/usr/share/perl5/only; "
        "cd /srv; echo a >a; ln a b; ln -s a c; mkfifo d; chmod 4751 a; mkdir -m 1777 e; touch -d @1000 f; "
        "mv /home /srv/home; python3 -c \"import os; os.setxattr('/srv/a', 'user.x', b'1')\""
    )
    look = (
        "cd /srv; stat -c '%n %a %u %g %F %h %Y' b c d e f home; readlink c; ls -A /usr/share/perl5; "
        "ls /etc/debian_version /home; python3 -c \"import os; print(os.listxattr('/srv/a'), os.listdir('/srv'))\""
    )
    assert box.execute(["sh", "-c", script]).output == ""
    looks = box.execute(["sh", "-c", look]).output
    box.commit("t/commit", labels={"k": "v"}, environment={"A": "1", "PATH": "/bin:/usr/bin"}, workdir="/srv/new")
    box.write_file("/srv/later", b"")
    try:
        with Container.start(embedded, "t/commit:latest", workdir="/srv/new") as second:
            assert second.execute(["sh", "-c", "echo $A $PATH; pwd"]).output == "1 /bin:/usr/bin\n/srv/new\n"
            second.execute(["rmdir", "/srv/new"], workdir="/")  # made because it was missing
            assert second.execute(["sh", "-c", look], workdir="/").output == looks
            second.execute(["sh", "-c", "rm -rf /usr/share/perl5 /srv; mkdir /srv"], workdir="/")
            second.commit("t/commit:2", labels={})
            assert not embedded.remove_image("t/commit")  # in use
        assert embedded.remove_image("t/commit") and not embedded.remove_image("t/commit")
        with Container.start(embedded, "t/commit:2") as third:  # the layers below stay while it needs them
            assert third.execute(["sh", "-c", "ls -A /srv /usr/share/perl5 2>&1; echo $A"]).output.endswith(
                "No such file or directory\n/srv:\n1\n"
            )
    finally:
        embedded.remove_image("t/commit")
        assert embedded.remove_image("t/commit:2")


def test_processes_stand_still_while_files_are_kept(embedded: EmbeddedEngine, box: Container) -> None:
    box.execute(["sh", "-c", "while :; do date +%s%N >/a; cp /a /b; done & while :; do echo x >>/c; done &"])
    sizes = []
    for number in range(3):
        box.commit(f"t/still:{number}", labels={})
        with Container.start(embedded, f"t/still:{number}") as container:
            sizes.append(len(container.read_file("/c")))
        embedded.remove_image(f"t/still:{number}")
    before = len(box.read_file("/c"))
    time.sleep(0.1)
    assert sizes == sorted(sizes) and before < len(box.read_file("/c"))  # and go on afterwards


def test_images_by_name_id_and_label(embedded: EmbeddedEngine, box: Container) -> None:
    layers = _names(_folder(embedded) / "layers")
    box.commit("t/name:1", labels={"t.a": "1", "t.b": "2"})
    first = embedded.find_image("t/name:1")
    assert first and embedded.find_image(first.id) == first
    assert (
        [image.id for image in embedded.list_images("t.a")]
        == [first.id]
        == [image.id for image in embedded.list_images("t.a=1")]
    )
    assert embedded.list_images("t.a=2") == [] and embedded.find_image("t/name") is None
    box.commit("t/name:1", labels={})
    second = embedded.find_image("t/name:1")
    assert second and second.id != first.id
    assert embedded.remove_image("t/name:1") and embedded.find_image("t/name:1") is None
    assert _names(_folder(embedded) / "layers") == layers


def test_an_image_that_is_not_there_says_how_to_bring_it(embedded: EmbeddedEngine) -> None:
    with pytest.raises(ImageError, match=r"docker save a/b:1 .*image_archives load"):
        embedded.pull_image("a/b:1")


def _tar(*entries: tuple[str, bytes | None]) -> bytes:
    """A tar of files, and of folders where the content is None."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            entry.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            entry.size = len(data or b"")
            archive.addfile(entry, io.BytesIO(data or b""))
    return target.getvalue()


def test_archives_of_images(embedded: EmbeddedEngine, tmp_path: Path) -> None:
    lower = _tar(("a", None), ("a/x", b"1"), ("a/y", b"1"), ("b", None), ("b/x", b"1"), ("../../up", b"1"))
    upper = _tar(("a/.wh.x", b""), ("b", None), ("b/.wh..wh..opq", b""), ("b/z", b"2"))
    config = (
        b'{"config": {"Env": ["A=b=c"], "WorkingDir": "/a", "Labels": {"t.archive": "1"}},'
        b' "rootfs": {"diff_ids": ["sha256:t1", "sha256:t2"]}}'
    )
    manifest = b'[{"Config": "c.json", "RepoTags": ["t/archive:1"], "Layers": ["1.tar", "2.tar"]}]'
    path = tmp_path / "saved.tar"
    path.write_bytes(_tar(("manifest.json", manifest), ("c.json", config), ("1.tar", lower), ("2.tar", upper)))
    (image,) = load_archive(embedded.images, path)
    (again,) = load_archive(embedded.images, path)
    try:
        assert (image.name, image.environment, image.workdir) == ("t/archive:1", {"A": "b=c"}, "/a")
        assert list(image.layers)[1:] == list(again.layers)[1:]
        top, below = (_folder(embedded) / "layers" / name for name in list(image.layers)[1:])
        assert (below / "up").read_bytes() == b"1"
        assert (top / "a/x").is_char_device() and (top / "a/x").stat().st_rdev == 0
        assert os.getxattr(top / "b", "user.overlay.opaque") == b"y" and _names(top / "b") == {"z"}
    finally:
        assert embedded.remove_image("t/archive:1")
    assert embedded.list_images("t.archive") == []
    path.write_bytes(b"no archive")
    with pytest.raises(ImageError, match="no archive of images"):
        load_archive(embedded.images, path)


def test_many_start_commit_and_end_at_once(embedded: EmbeddedEngine) -> None:
    def life(number: int) -> str:
        with Container.start(embedded, IMAGE) as container, Shell(container, workdir="/root") as shell:
            shell.run(f"echo {number} >/n", timeout_s=60)
            container.commit(f"t/many:{number}", labels={})
            with Container.start(embedded, f"t/many:{number}") as second:
                content = second.read_file("/n").decode()
            assert embedded.remove_image(f"t/many:{number}")
            return content

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(life, range(32))) == [f"{number}\n" for number in range(32)]


def test_one_of_two_removers_has_removed_it(embedded: EmbeddedEngine) -> None:
    with EmbeddedEngine(_folder(embedded)) as other:
        for _ in range(5):
            container = Container.start(embedded, IMAGE)
            barrier = threading.Barrier(2)

            def remove(engine: EmbeddedEngine, name: str = container.name, at: threading.Barrier = barrier) -> bool:
                at.wait()
                return engine.remove(name)

            with ThreadPoolExecutor(2) as pool:
                assert sorted(pool.map(remove, (embedded, other))) == [False, True]
            container.close()


def test_another_process_uses_and_removes_it(embedded: EmbeddedEngine, box: Container) -> None:
    code = (
        "import sys, pickle; engine = pickle.loads(bytes.fromhex(sys.argv[1])); name = sys.argv[2]\n"
        "from srl_swe.environments.engine import ContainerState\n"
        "assert engine.state(name).running\n"
        "engine.put_archive(name, '/srv', bytes.fromhex(sys.argv[3]))\n"
        "print(engine.remove(name), engine.remove(name), engine.state(name).status)"
    )
    argv = [sys.executable, "-c", code, pickle.dumps(embedded).hex(), box.name, _tar(("f", b"1")).hex()]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout == "True False removed\n"
    assert not box.is_running()


def test_a_forked_child_has_its_own_process_beside_it(embedded: EmbeddedEngine, box: Container) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = 7 if embedded.exec(box.name, ["true"], user="0:0").receive(timeout_s=10) is None else 2
            embedded.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert box.execute(["echo", "here"]).output == "here\n"


def test_the_small_process_may_be_killed(embedded: EmbeddedEngine, box: Container) -> None:
    with Shell(box, workdir="/root") as shell:
        process = embedded._folder.spawner._process
        assert process is not None
        process.kill()
        process.wait()
        assert shell.run("echo on", timeout_s=10).output == "on\n"
        assert box.execute(["sh", "-c", "exit 4"]).exit_code == 4
        assert shell.run("exit 6", timeout_s=10).exit_code == 6


def test_it_can_be_used_after_it_was_closed_and_copied(embedded: EmbeddedEngine, box: Container) -> None:
    embedded.close()
    assert deepcopy(embedded) is embedded
    assert box.execute(["echo", "here"]).output == "here\n"


OWNER = """
import sys, time
from pathlib import Path
from srl_swe.environments.container import Container
from srl_swe.environments.embedded.engine import EmbeddedEngine
engine = EmbeddedEngine(Path(sys.argv[1]))
while True:
    print("next", flush=True)
    container = Container.start(engine, sys.argv[2])
    print(container.name, flush=True)
    container.execute(["sh", "-c", "sleep 600 & echo x >/f; chmod 0 /f"])
    container.commit("t/owner:1", labels={"srl_swe": "snapshot"})
    container.execute(["true"])
    engine.remove_image("t/owner:1")
    container.close()
"""


@pytest.mark.parametrize("also_the_small_process", [False, True])
def test_nothing_is_left_of_an_owner_killed_at_any_moment(
    embedded: EmbeddedEngine, also_the_small_process: bool
) -> None:
    folder = _folder(embedded)
    chance = random.Random(4711)
    layers = _names(folder / "layers")
    for _ in range(12):
        argv = [sys.executable, "-c", OWNER, str(folder), IMAGE]
        owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None and owner.stdout.readline() == "next\n"
        time.sleep(chance.uniform(0, 0.2))
        victims = _descendants(owner.pid) if also_the_small_process else [owner.pid]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        owner.wait()
        containers = set(owner.stdout.read().split()) | _names(folder / "containers")
        owner.stdout.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # a request that was under way comes to its end meanwhile
            collect_garbage(embedded)
            embedded.remove_image("t/owner:1")
            if not _left(folder, layers, containers):
                break
            time.sleep(0.05)
        assert _left(folder, layers, containers) == []


def _descendants(pid: int) -> list[int]:
    """A process and what it started of the engine's own, not what runs in containers."""
    found = [pid]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")
            if entry.name.isdecimal() and int(fields[2].split()[1]) == pid:
                found += _descendants(int(entry.name))
    return found


def _left(folder: Path, layers: set[str], containers: set[str]) -> list[str]:
    """What there is beside the base image: in the engine's folder, of processes, and of groups."""
    left = [f"container {name}" for name in _names(folder / "containers")]
    left += [f"layer {name}" for name in _names(folder / "layers") ^ layers]
    left += [f"process {pid}" for pid in _processes_in(folder)]
    for name in containers - {"next"}:
        left += [f"group {path}" for path in _cgroups_of(name)]
    return left


def test_no_descriptor_stays_open(embedded: EmbeddedEngine, box: Container) -> None:
    def use() -> None:
        box.execute(["true"])
        box.write_file("/f", b"1")
        box.read_file("/f")
        with contextlib.suppress(FileNotFoundError, ContainerError):
            box.read_file("/none")
        with contextlib.suppress(ContainerError):
            embedded.exec(box.name, ["/none"], user="0:0")
        embedded.written_bytes(box.name)

    use()
    before = _names(Path("/proc/self/fd"))
    for _ in range(5):
        use()
    assert len(_names(Path("/proc/self/fd"))) <= len(before)


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match="apt-get install bubblewrap"):
        EmbeddedEngine(tmp_path / "a")
    monkeypatch.undo()
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "bwrap").write_text("#!/bin/sh\n[ \"$1\" = --version ] || { echo 'no namespaces' >&2; exit 1; }\n")
    (broken / "bwrap").chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken}:{os.environ['PATH']}")
    with pytest.raises(EngineUnavailableError, match=r"does not work here: .+"):
        EmbeddedEngine(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailableError, match="cannot use the folder"):
        EmbeddedEngine(tmp_path / "file" / "c")


def test_a_network_is_refused(embedded: EmbeddedEngine) -> None:
    assert any("network" in gap for gap in embedded.gaps)
    with pytest.raises(ContainerError, match="network"):
        Container.start(embedded, IMAGE, limits=ContainerLimits(network=True))
