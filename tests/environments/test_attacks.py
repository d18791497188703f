"""Attacks on a container and its shell, each really tried; `pytest -v` on this file lists them with their outcome."""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from srl_swe.environments.container import Container
from srl_swe.environments.engine import Engine
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.preparation import PREPARED_LABEL
from srl_swe.environments.sessions import Session, WarmPool, open_session
from srl_swe.environments.shell import Shell
from srl_swe.types import CommandResult, InstanceEnvironment
from tests.environments.conftest import make_image, remove_prepared
from tests.environments.content_hash import content_lines

pytestmark = pytest.mark.docker
BASE = "srl-swe/base:bookworm"
IMAGE = "srl-swe/test-attacks:latest"
GIT = "git -c user.name=a -c user.email=a@b"
SMALL = ContainerLimits(memory_bytes=256 << 20, max_processes=64, cpus=0.5, max_open_files=256, disk_bytes=64 << 20)
FUTURE = "the answer of the future"

# A repository with everything that could give the future away.
SETUP = f"""
set -e
mkdir /repo && cd /repo && git init -q -b main && echo 'x = 1' >code.py && git add -A && {GIT} commit -qm base
git checkout -q -b next && echo '{FUTURE}' >code.py && {GIT} commit -qam '{FUTURE}' && git tag later
{GIT} tag -a -m '{FUTURE}' annotated
git update-ref refs/remotes/origin/main HEAD && git remote add origin https://example.invalid/x.git
{GIT} notes add -m '{FUTURE}' HEAD
git tag tree-of-the-future HEAD^{{tree}} && git tag blob-of-the-future HEAD:code.py
echo '{FUTURE} 2' >code.py && {GIT} stash -q
git checkout -q main && git update-ref ORIG_HEAD next && git repack -qad
for pack in .git/objects/pack/*.pack; do touch "${{pack%.pack}}.keep"; done
git commit-graph write --reachable
echo '{FUTURE} 3' | git hash-object -w --stdin
"""


@pytest.fixture(scope="module")
def environment(engine: Engine) -> Iterator[InstanceEnvironment]:
    make_image(engine, IMAGE, SETUP)
    yield InstanceEnvironment(image=IMAGE, workdir="/repo", activate="export ACTIVE=yes")
    remove_prepared(engine, IMAGE)


@pytest.fixture(scope="module")
def victim(engine: Engine, environment: InstanceEnvironment) -> Iterator[Session]:
    """A session that the attacks which should change nothing share."""
    session = open_session(engine, environment, limits=SMALL, keep_prepared=True)
    yield session
    session.close()


def _run(session: Session, command: str, timeout_s: float = 30) -> CommandResult:
    return session.shell.run(command, timeout_s=timeout_s)


def _python(code: str) -> str:
    return f"python3 - <<'EOF'\n{code}\nEOF"


ESCAPES = {
    "mount a file system": "mount -t tmpfs none /mnt",
    "mount the host's disk": "for d in /dev/vda /dev/sda /dev/nvme0n1; do mount $d /mnt && exit 0; done; false",
    "make a device node": "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
    "open the kernel's memory": "head -c 1 /dev/mem || head -c 1 /proc/kcore",
    "change the root": "chroot / true",
    "make a namespace": "unshare --mount true || unshare --net true",
    "make a user namespace": "unshare --user true",
    "enter init's namespaces": "nsenter --target 1 --mount --pid true",
    "write a kernel setting": "echo x >/proc/sys/kernel/core_pattern",
    "write a setting of the machine": "echo 0 >/proc/sys/vm/swappiness || echo x >/sys/kernel/uevent_helper",
    "trigger the system request key": "echo b >/proc/sysrq-trigger",
    "mount a cgroup for its release agent": "mkdir -p /tmp/cg && mount -t cgroup -o memory cgroup /tmp/cg",
    "lift its own memory limit": (
        "for file in $(find /sys/fs/cgroup -name memory.limit_in_bytes -o -name memory.max); do "
        "echo -1 >$file || echo max >$file; exit; done; false"
    ),
    "load a kernel module": "insmod /tmp/x.ko || modprobe dummy",
    "set the clock": "date -s 2030-01-01",
    "set the host name": "hostname owned",
    "become another user": "su nobody -s /bin/sh -c true || setpriv --reuid 1000 true",
    "give a program to another user": "cp /bin/bash /tmp/b && chown 1:1 /tmp/b",
    "change the owner of a file": "chown 1:1 /etc/passwd",
    "raise a resource limit": "ulimit -n 1000000",
    "kill init": "kill -9 1 && sleep 0.2 && ! kill -0 1",
    "see the host's processes": "ps -e -o args | grep -E 'dockerd|podman|pytest' | grep -v grep",
    "find the engine's socket": "find / -xdev -name '*.sock' -type s | grep -E 'docker|podman|containerd'",
    "read the host's environment": "tr '\\0' '\\n' </proc/1/environ | grep HOST_SECRET",
    "read the host's files through init": f"ls /proc/1/root{__file__} || ls /proc/1/cwd{__file__}",
    "reach the network directly": _python("import socket; socket.create_connection(('192.0.2.1', 80), 3)"),
    "resolve a name": _python("import socket; socket.getaddrinfo('pypi.org', 80)"),
    "open a raw socket": _python("import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    "open a packet socket": _python("import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    "add a network device": "ip link add dummy0 type dummy",
    "reach the host by vsock": _python("import socket; socket.socket(40, socket.SOCK_STREAM).connect((2, 1))"),
    "read the kernel's log": "dmesg",
    "load a BPF program": _python("import ctypes; assert ctypes.CDLL(None).syscall(321, 0, 0, 0) != -1"),
    "watch the machine's performance": _python(
        "import ctypes; b = (ctypes.c_char * 128)(); assert ctypes.CDLL(None).syscall(298, b, -1, 0, -1, 0) != -1"
    ),
    "use the kernel's key ring": _python(
        "import ctypes; assert ctypes.CDLL(None).syscall(248, b'user', b'k', b'v', 1, -2) != -1"
    ),
}
"""What is tried -> the command; an exit code of 0 would be its success. System calls by their x86-64 numbers."""


@pytest.mark.parametrize("attack", ESCAPES)
def test_there_is_no_way_out(victim: Session, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if attack == "make a user namespace" and any("user namespaces" in gap for gap in victim.container.engine.gaps):
        pytest.skip("the engine says that it does not forbid this")
    monkeypatch.setenv("HOST_SECRET", "1")
    result = _run(victim, f"( {ESCAPES[attack]}\n) </dev/null")
    assert result.exit_code not in (0, None), result.output
    assert _run(victim, "echo usable $ACTIVE").output == "usable yes\n"


def test_reach_a_service_of_the_host(victim: Session) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0srl-swe-{os.getpid()}")
        abstract.listen()
        port = server.getsockname()[1]
        for target in (f"('127.0.0.1', {port})", f"('{socket.gethostname()}', {port})", f"('172.17.0.1', {port})"):
            code = _python(f"import socket; socket.create_connection({target}, 3)")
            assert _run(victim, code).exit_code == 1
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0srl-swe-{os.getpid()}')"
        assert _run(victim, _python(connect)).exit_code == 1


def test_allocate_more_memory_than_allowed(victim: Session) -> None:
    assert _run(victim, _python("x = b'x' * (1 << 30)")).exit_code in (1, 137)  # MemoryError, or killed
    assert victim.is_usable()


def test_fill_the_shared_memory(victim: Session) -> None:
    assert _run(victim, "head -c 1G /dev/zero >/dev/shm/fill").exit_code != 0
    _run(victim, "rm -f /dev/shm/fill")
    assert _run(victim, "echo usable").output == "usable\n"


def test_use_more_processor_than_allowed(victim: Session) -> None:
    burn = "import os, time\nos.fork(); os.fork()\nend = time.time() + 3\nwhile time.time() < end: pass"
    used = _run(victim, f"time -p ({_python(burn)}\nwait; sleep 0.2)")
    spent_s = sum(float(line.split()[1]) for line in used.output.splitlines() if line.startswith(("user", "sys")))
    assert spent_s < 0.5 * used.duration_s * 1.4, used.output


def test_open_more_files_than_allowed(victim: Session) -> None:
    result = _run(victim, _python("files = [open('/dev/null') for _ in range(1000)]"))
    assert "Too many open files" in result.output


def test_start_more_processes_than_allowed(victim: Session) -> None:
    result = _run(victim, "bomb() { bomb | bomb & }; bomb; sleep 600", timeout_s=2)
    assert result.timed_out and result.duration_s < 25
    assert int(_run(victim, "ps -e --no-headers | wc -l").output) < 6


def test_write_one_file_beyond_the_limit(victim: Session) -> None:
    assert _run(victim, "head -c 1G /dev/zero >/tmp/big").exit_code != 0
    assert int(_run(victim, "stat -c %s /tmp/big; rm /tmp/big").output) <= SMALL.disk_bytes


def test_write_many_files_beyond_the_limit(engine: Engine) -> None:
    with Container.start(engine, BASE, limits=SMALL) as container, Shell(container, workdir="/root") as shell:
        result = shell.run("for i in $(seq 400); do head -c 10M /dev/urandom >/tmp/$i; done; echo all", timeout_s=120)
        assert "all" not in result.output and result.shell_replaced
        assert "written to disk" in (result.ended_by or shell.run("true", timeout_s=30).ended_by)
        assert engine.written_bytes(container.name) < 40 * SMALL.disk_bytes


def test_write_beyond_the_limit_from_the_background(engine: Engine) -> None:
    with Container.start(engine, BASE, limits=SMALL) as container, Shell(container, workdir="/root") as shell:
        shell.run("(for i in $(seq 400); do head -c 10M /dev/urandom >/tmp/$i; done) >/dev/null 2>&1 &", timeout_s=5)
        deadline = time.monotonic() + 60
        while not container.ended_by and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "written to disk" in container.ended_by
        time.sleep(0.5)
        written = engine.written_bytes(container.name)
        time.sleep(1)
        assert engine.written_bytes(container.name) == written


def test_outlive_the_time_limit(victim: Session) -> None:
    command = "trap '' INT TERM HUP; setsid sh -c 'trap \"\" INT TERM; sleep 601' & nohup sleep 602 & sleep 603"
    assert _run(victim, command, timeout_s=1).timed_out
    assert "sleep" not in victim.container.execute(["ps", "-eo", "args"]).output


FORGERIES = {
    "print what looks like a report": "printf '%032d 0 /tmp\\0' 0; printf '%032d' 0",
    "write to the control stream": "echo x >/proc/$$/fd/250; echo y >/proc/$$/fd/251",
    "close every descriptor": 'for fd in {0..255}; do eval "exec $fd>&-"; done',
    "redefine the builtins": "builtin() { :; }; printf() { :; }; source() { :; }; eval() { :; }",
    "disable the builtins": "enable -n printf source eval builtin",
    "alias the builtins": "shopt -s expand_aliases; alias builtin='echo no' printf='echo no'",
    "trap everything": "trap 'echo trapped' DEBUG ERR EXIT RETURN",
    "set options that end a shell": "set -euo pipefail; set -n",
    "change the prompt": "PROMPT_COMMAND='exit 3'; PS1='$(exit)'; PS0='x'",
    "make variables read-only": "readonly PATH PWD IFS; IFS=x",
    "unset the environment": "unset PATH HOME PWD OLDPWD LANG",
    "eat the shell's input": "timeout 2 cat /proc/$$/fd/0",
    "stop the shell": "kill -STOP $$",
    "replace the shell": "exec /bin/cat",
    "leave the shell": "exit 0",
    "kill everything": "kill -9 -1",
    "break the terminal": "printf '\\033c\\033]0;title\\007\\033[?1049h'; stty raw",
    "delete the working directory": "mkdir -p /tmp/d && cd /tmp/d && rmdir /tmp/d",
}


@pytest.mark.parametrize("attack", FORGERIES)
def test_the_shell_stays_truthful(victim: Session, attack: str) -> None:
    """Whatever a command does to its shell, at most one more is lost before the next gets its own output and code."""
    with Shell(victim.container, workdir="/root", activate="export ACTIVE=yes") as shell:
        shell.run(FORGERIES[attack], timeout_s=4)
        codes = [shell.run("(exit 7)", timeout_s=5).exit_code for _ in range(2)]
        assert codes[1] == 7, codes
        result = shell.run("/bin/echo mine", timeout_s=10)
        assert "mine" in result.output.splitlines() and result.exit_code == 0


def test_no_object_of_the_future_is_left(victim: Session) -> None:
    assert victim.container.engine.list_images(PREPARED_LABEL)
    _run(victim, "cd /repo")  # the shell may have been ended by an attack
    objects = _run(victim, "cd /repo; git cat-file --batch-all-objects --batch-check='%(objectname)'").output.split()
    reachable = _run(victim, "git rev-list --objects HEAD | cut -d ' ' -f 1").output.split()
    assert sorted(objects) == sorted(reachable)
    listed = _run(victim, "git log --all --format=%s && git tag && git stash list && git remote && git notes list")
    assert listed.output == "base\n"
    assert _run(victim, "git fsck --full --strict && git status --short").exit_code == 0
    search = (
        "import os\nfor folder, _, names in os.walk('/repo'):\n for name in names:\n"
        "  if b'future' in open(os.path.join(folder, name), 'rb').read(): print(folder, name)"
    )
    assert _run(victim, _python(search)).output == ""


DIRT = """
cd /repo && echo bad >code.py && echo new >untracked && mkdir -p .git/hooks
printf '#!/bin/sh\\ntouch /owned\\n' >.git/hooks/post-checkout && chmod +x .git/hooks/post-checkout
git config core.pager 'touch /owned' && git config --global alias.status '!touch /owned'
git config --system core.fsmonitor 'touch /owned'; echo '*' >.git/info/exclude
echo 'export EVIL=1' | tee -a /root/.bashrc /root/.profile /etc/profile /etc/bash.bashrc /etc/environment >/dev/null
echo /tmp/evil.so >/etc/ld.so.preload; rm /etc/ld.so.preload
mkdir -p /etc/cron.d && echo '* * * * * root touch /owned' >/etc/cron.d/evil
printf '#!/bin/sh\\necho evil\\n' >/usr/local/bin/git; chmod +x /usr/local/bin/git
cp /bin/true /usr/local/bin/edit; rm -rf /usr/share/zoneinfo; : >/tmp/left; : >/dev/shm/left; : >/dev/left
echo 1.2.3.4 evil >>/etc/hosts; umask 077; ulimit -n 64; cd /tmp; export EVIL=1; alias ls='touch /owned'
python3 - <<'EOF'
import ctypes
libc = ctypes.CDLL(None)
print(libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666))
EOF
setsid nohup sh -c 'while :; do touch /repo/again /tmp/again; sleep 0.01; done' >/dev/null 2>&1 &
"""


def test_nothing_of_an_episode_reaches_the_next(engine: Engine, environment: InstanceEnvironment) -> None:
    pool = WarmPool(engine, SMALL, max_per_image=1)
    try:
        session = pool.take(environment)
        expected = content_lines(session)
        assert len(expected) > 1000
        for dirt in (DIRT, "rm -rf /repo /usr/lib/python3 /etc", "kill -9 -1; rm -rf --no-preserve-root / 2>/dev/null"):
            pool.expect(environment)
            _run(session, dirt)
            pool.discard(session, again=True)  # rewound where the engine can
            pool.discard(pool.take(environment))  # the one that waited
            time.sleep(1)
            session = pool.take(environment)
            assert set(content_lines(session)) ^ set(expected) == set()
        pool.discard(session)
    finally:
        pool.close()


def test_a_user_other_than_root(engine: Engine, environment: InstanceEnvironment) -> None:
    if any("user" in gap and "map" in gap for gap in engine.gaps):
        pytest.skip(f"the engine says that it has one user only: {engine.gaps}")
    limits = ContainerLimits(user="1000:1000")
    session = open_session(engine, environment, limits=limits, keep_prepared=True)
    try:
        listed = _run(session, "id -u; echo y >>code.py; git status --short; touch new && rm new").output
        assert listed == "1000\n M code.py\n"
        for attack in (
            "echo x >/etc/passwd",
            "echo x >/usr/local/bin/edit",
            "touch /usr/bin/new",
            "kill -9 1",
            "grep -q 'CapBnd:.*[1-9a-f]' /proc/self/status",
        ):
            assert _run(session, attack).exit_code not in (0, None), attack
        assert _run(session, "sleep 600 & sleep 601", timeout_s=1).timed_out
        assert "sleep" not in session.container.execute(["ps", "-eo", "args"]).output
    finally:
        session.close()
