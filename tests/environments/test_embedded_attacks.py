"""Attacks on the embedded engine in particular: on what enters a container from outside, and on its kernel."""

import contextlib
import io
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.embedded.engine import EmbeddedEngine
from srl_swe.environments.limits import ContainerLimits
from srl_swe.errors import ContainerError
from tests.environments.embedded import IMAGE, engine_with_base_image

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedEngine]:
    with engine_with_base_image() as engine:
        yield engine


@pytest.fixture
def box(embedded: EmbeddedEngine) -> Iterator[Container]:
    with Container.start(embedded, IMAGE, limits=ContainerLimits(max_processes=128)) as container:
        yield container


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the host that everybody may read and write."""
    path = tmp_path / "secret"
    path.write_text("of the host")
    path.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    return path


def _python(container: Container, code: str, timeout_s: float = 30) -> str:
    result = container.execute(["python3", "-c", code], timeout_s=timeout_s)
    assert result.exit_code == 0, result.output
    return result.output


def _tar(name: str, data: bytes = b"", **fields: object) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for key, value in fields.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


WAYS_UP = ["/", "../../../../../../..", "/proc/1/root", "/proc/self/root", "/proc/self/cwd", "/proc/thread-self/root"]


@pytest.mark.parametrize("link", WAYS_UP)
def test_no_link_leads_an_archive_to_the_host(box: Container, secret: Path, link: str) -> None:
    box.execute(["ln", "-s", link, "/way"])
    for path in (f"/way{secret}", f"/way/..{secret}", str(secret)):
        with pytest.raises(FileNotFoundError):
            box.read_file(path)
    with contextlib.suppress(ContainerError):
        box.put_archive("/", _tar(f"way{secret}", b"owned"))
    with contextlib.suppress(ContainerError):
        box.put_archive("/way", _tar(str(secret), b"owned"))
    with contextlib.suppress(ContainerError):
        box.put_archive("/way", _tar("new", b"owned"))
    assert secret.read_text() == "of the host" and not Path("/new").exists()


def test_no_descriptor_of_the_host_can_be_named(box: Container) -> None:
    for number in range(12):
        box.execute(["ln", "-sfn", f"/proc/self/fd/{number}", "/fd"])
        with pytest.raises((FileNotFoundError, ContainerError)):
            box.get_archive("/fd/etc/hostname")
        with pytest.raises(ContainerError):
            box.execute(["true"], workdir="/fd")
    box.execute(["ln", "-sfn", "/proc/self/exe", "/exe"])
    with pytest.raises((FileNotFoundError, IsADirectoryError, ContainerError)):
        box.read_file("/exe")


def test_archives_stay_inside_while_links_change(embedded: EmbeddedEngine, box: Container, secret: Path) -> None:
    """A folder becomes a link, and back, while an archive is written into it and read from it."""
    inner = f"/real{secret.parent}"
    box.write_file(f"{inner}/secret", b"of the container")
    box.execute(
        [
            "sh",
            "-c",
            "ln -s / /link; cd /; (while :; do mv -T real swap; mv -T link real; mv -T real link; "
            "mv -T swap real; done) >/dev/null 2>&1 &",
        ]
    )
    seen = set()
    for _ in range(60):
        with contextlib.suppress(FileNotFoundError, ContainerError):
            seen.add(box.read_file(f"{inner}/secret"))
        with contextlib.suppress(ContainerError):
            embedded.put_archive(box.name, inner, _tar("secret", b"owned"))
    assert seen <= {b"of the container", b"owned"} and secret.read_text() == "of the host"


def test_what_an_archive_may_hold(box: Container) -> None:
    with pytest.raises(ContainerError):
        box.put_archive("/srv", b"no tar" * 1000)
    for path in ("../../../../../srv/up", "/srv/./up"):
        box.put_archive("/srv", _tar(path, b"1"))
    box.put_archive("/srv", _tar("disk", type=tarfile.BLKTYPE, devmajor=254))
    box.put_archive("/srv", _tar("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
    box.put_archive("/srv", _tar("link", b"replaced, not followed", mode=0o4755))
    listed = box.execute(["find", "/srv", "-mindepth", "1", "-printf", "%P %y %m\n"]).output
    assert sorted(listed.splitlines()) == ["link f 4755", "srv d 755", "srv/up f 644"]
    assert "root" in box.read_file("/etc/passwd").decode()


def test_reading_what_never_ends_or_blocks(box: Container) -> None:
    box.execute(
        ["sh", "-c", "mkdir /odd; cd /odd; mkfifo pipe; ln -s /dev/zero zero; truncate -s 3 short; ln -s . loop"]
    )
    _python(box, "import socket; socket.socket(socket.AF_UNIX).bind('/odd/socket')")
    started = time.monotonic()
    with tarfile.open(fileobj=io.BytesIO(box.get_archive("/odd"))) as archive:
        assert {entry.name for entry in archive} == {f"odd{name}" for name in ("", "/pipe", "/zero", "/short", "/loop")}
    with pytest.raises(IsADirectoryError):
        box.read_file("/dev/zero")
    with pytest.raises(ContainerError):
        box.put_archive("/odd/pipe", _tar("f"))
    box.put_archive("/odd", _tar("pipe", b"1"))
    assert box.read_file("/odd/pipe") == b"1" and time.monotonic() - started < 10


WATCHER = """
import os
found, own = set(), {os.path.realpath('/bin/sh'), os.path.realpath('/bin/bash'), os.path.realpath('/bin/true'),
    os.path.realpath('/usr/bin/python3')}
while not os.path.exists('/stop'):
    for pid in filter(str.isdecimal, os.listdir('/proc')):
        if pid == str(os.getpid()): continue
        for what in ('exe', 'cwd', 'root'):
            try: target = os.readlink(f'/proc/{pid}/{what}')
            except OSError: continue
            if target not in own | {'/'}: found.add((what, target))
            if what == 'exe':
                try: os.close(os.open(f'/proc/{pid}/exe', os.O_WRONLY)); found.add(('written', target))
                except OSError: pass
        for name in ('environ', 'maps'):
            try: data = open(f'/proc/{pid}/{name}', 'rb').read()
            except OSError: continue
            if any(word in data for word in (b'srl_swe', b'memfd', b'pyenv')): found.add((name, data))
        try: names = os.listdir(f'/proc/{pid}/fd')
        except OSError: continue
        for name in names:
            try: target = os.readlink(f'/proc/{pid}/fd/{name}')
            except OSError: continue
            if not target.startswith(('pipe:', '/dev/null', '/proc', '/etc/', '/usr/')): found.add(('fd', target))
open('/found', 'w').write(repr(found))
"""


def test_what_enters_shows_nothing_before_it_is_the_program(embedded: EmbeddedEngine, box: Container) -> None:
    box.write_file("/watch", WATCHER.encode())
    watcher = embedded.exec(box.name, ["python3", "/watch"], user="0:0")
    for _ in range(150):
        embedded.exec(box.name, ["true"], user="0:0").close()
        box.write_file("/f", b"1")
        box.get_archive("/f")
    box.write_file("/stop", b"")
    assert watcher.receive(timeout_s=10) is None and watcher.exit_code() == 0
    watcher.close()
    assert box.read_file("/found") == b"set()"


def test_this_python_cannot_be_overwritten(embedded: EmbeddedEngine, box: Container) -> None:
    """CVE-2019-5736: what starts a program is made to execute itself, and could then be overwritten."""
    python = Path(sys.executable).resolve().stat()
    box.execute(["sh", "-c", "ln -sf /proc/self/exe /evil; printf '#!/proc/self/exe\\n' >/script; chmod 755 /script"])
    for argv in (["/evil", "-c", "import time; time.sleep(3)"], ["/script"]):
        with contextlib.suppress(ContainerError):
            embedded.exec(box.name, argv, user="0:0").close()
        code = (
            "import os\nfor pid in filter(str.isdecimal, os.listdir('/proc')):\n"
            "    exe = f'/proc/{pid}/exe'\n"
            "    try: print(os.stat(exe).st_dev, os.stat(exe).st_ino, os.access(exe, os.W_OK))\n"
            "    except OSError: pass"
        )
        assert f"{python.st_dev} {python.st_ino} True" not in _python(box, code).splitlines()


def test_process_one_holds_nothing_of_the_host(box: Container) -> None:
    descriptors = _python(box, "import os; print(*(os.readlink(f'/proc/1/fd/{n}') for n in os.listdir('/proc/1/fd')))")
    assert all(target.startswith(("/dev/null", "pipe:", "/proc/1/fd")) for target in descriptors.split())
    mounts = box.execute(["cat", "/proc/1/mountinfo"]).output
    assert {line.split(" - ")[1].split()[0] for line in mounts.splitlines()} <= {
        "overlay",
        "proc",
        "sysfs",
        "devtmpfs",
        "tmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
    }
    assert str(Path.home()) not in mounts and "/tmp" not in mounts
    look = "import os, stat; print(*(n for n in os.listdir('/dev') if not stat.S_ISDIR(os.lstat('/dev/' + n).st_mode)))"
    links = {"core", "fd", "ptmx", "stdin", "stdout", "stderr"}
    assert set(_python(box, look).split()) - links == {"null", "zero", "full", "random", "urandom", "tty"}
    for path in ("/dev/new", "/sys/new", "/proc/new", "/proc/sys/kernel/hostname"):
        assert box.execute(["sh", "-c", f"echo x >{path}"]).exit_code != 0


def test_processes_of_the_host_are_out_of_reach(box: Container) -> None:
    assert box.execute(["sh", "-c", f"kill -0 {os.getpid()}"]).exit_code != 0
    assert _python(box, "import os; print(max(map(int, filter(str.isdecimal, os.listdir('/proc')))) < 100)") == "True\n"


# Numbers of x86-64, arguments that would otherwise give another error than EPERM.
CALLS = {
    "mount": (165, 0, b"/mnt", b"tmpfs", 0, 0), "umount2": (166, b"/proc", 2), "pivot_root": (155, b"/", b"/"),
    "chroot": (161, b"/"), "unshare, user": (272, 0x10000000), "unshare, mount": (272, 0x20000), "setns": (308, 0, 0),
    "clone, user": (56, 0x10000011, 0, 0, 0, 0), "fsopen": (430, b"tmpfs", 0), "open_tree": (428, -100, b"/", 1),
    "move_mount": (429, -100, b"/", -100, b"/", 0), "mount_setattr": (442, -100, b"/", 0, 0, 0), "bpf": (321, 0, 0, 0),
    "keyctl": (250, 0, -3, 0, 0), "add_key": (248, b"user", b"k", b"v", 1, -3),
    "request_key": (249, b"user", b"k", 0, -3),
    "perf_event_open": (298, 0, 0, -1, -1, 0), "userfaultfd": (323, 0), "io_uring_setup": (425, 1, 0),
    "open_by_handle_at": (304, -100, 0, 0), "name_to_handle_at": (303, -100, b"/", 0, 0, 0),
    "init_module": (175, 0, 0, b""),
    "finit_module": (313, 0, b"", 0), "kexec_load": (246, 0, 0, 0, 0), "reboot": (169, 0, 0, 0, 0),
    "syslog": (103, 3, 0, 0),
    "fanotify_init": (300, 0, 0), "quotactl": (179, 0, b"/", 0, 0), "swapon": (167, b"/f", 0), "acct": (163, 0),
    "settimeofday": (164, 0, 0), "iopl": (172, 3), "ioctl, TIOCSTI": (16, 0, 0x5412, b"x"),
}  # fmt: skip


def test_system_calls_that_are_refused(embedded: EmbeddedEngine, box: Container) -> None:
    if embedded.architecture != "x86_64" or any("system calls are not filtered" in gap for gap in embedded.gaps):
        pytest.skip("no filter, or other numbers")
    code = (
        f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, (number, *arguments) in {CALLS!r}.items():\n"
        "    result = libc.syscall(number, *arguments)\n"
        "    if (result, ctypes.get_errno()) != (-1, 1): print(name, result, ctypes.get_errno())\n"
        "for number in (435, 0x40000000 | 165): print(libc.syscall(number, 0, 0, 0, 0), ctypes.get_errno())"
    )
    assert _python(box, code) == "-1 38\n-1 38\n"  # clone3, and any call of x32, do not exist
    by_interrupt = (
        "import ctypes, mmap, os\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        # push rbx; mov eax, 310 (unshare of 32-bit programs); mov ebx, CLONE_NEWUSER; int 0x80; pop rbx; ret
        "page.write(bytes.fromhex('53b836010000bb00000010cd805bc3'))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "    os._exit(7 if call() == -1 else 0)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    assert _python(box, by_interrupt) in ("1792\n", "11\n")  # EPERM, or no 32-bit programs at all


def test_no_rights_come_back(box: Container) -> None:
    script = (
        "cp /bin/bash /tmp/b; chmod 6755 /tmp/b; /tmp/b -p -c 'cat /proc/self/status'; "
        "python3 -c \"import os; os.setxattr('/tmp/b', 'security.capability', b'\\x01\\x00\\x00\\x02' + bytes(16))\""
    )
    output = box.execute(["sh", "-c", script]).output
    assert "CapEff:\t0000000000000000" in output and "NoNewPrivs:\t1" in output and "PermissionError" in output
