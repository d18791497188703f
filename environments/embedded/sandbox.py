"""How a container of the embedded engine is made, and what is done in it: the tasks of `jobs.py`.

A container is a user namespace, in which an overlay of the image's layers is mounted, and within it what bubblewrap
sets up: process ids, IPC, host name, control groups, /proc, /dev, no capabilities, the seccomp filter. What is
executed in it later joins its namespaces and gives up the same things. Left out: what is kept of it on disk
(`container_records.py`), archives (`archives.py`).
"""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from srl_swe.environments.embedded import archives, cgroups, linux
from srl_swe.environments.embedded.container_records import STATUS, UPPER, WORK, read_status
from srl_swe.environments.embedded.jobs import Job
from srl_swe.environments.embedded.namespaces import (
    IdMap,
    ending_with_errors,
    enter,
    enter_new,
    read_text,
    reset_signals,
    run_child,
    set_rlimits,
)
from srl_swe.environments.engine import HOSTNAME
from srl_swe.errors import ContainerError

_MERGED = "/tmp"
"""Where the overlay is mounted, in a mount namespace of its own: a folder that every machine has."""
_SHM_BYTES = 64 << 20  # Docker's
_ALL_BUT_USER = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)
_ENDED_BEFORE_EXEC = 125


def probe(job: Job) -> None:
    """Try everything that a container needs, and answer what there is of that which it can do without."""
    parents = {key: str(path) for key, path in cgroups.find_parents().items()}
    os.chdir(job.arguments["scratch"])

    def attempt() -> None:
        enter_new(IdMap(**job.arguments["id_map"]), linux.CLONE_NEWNS | linux.CLONE_NEWNET)
        _mount_root("none", "lower", UPPER, WORK)
        _mount_sys(())
        flags = ["--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
        flags += ["--perms", "1777", "--size", "4096", "--tmpfs", "/dev/shm"]
        _execute_bwrap(job, [*flags, "--", job.arguments["true"]])

    code, said = run_child(attempt)
    if code != 0:
        raise ContainerError(said.strip() or f"bubblewrap ended with exit code {code}")
    job.answer(cgroups=parents, seccomp=job.seccomp is not None)


def start(job: Job) -> None:
    """Start process 1 of a container; answered once it runs."""
    os.chdir(job.arguments["folder"])
    folder = Path("containers", job.arguments["name"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    status = os.open(folder / STATUS, flags, 0o600)
    errors, errors_end = os.pipe()
    monitor = os.fork()
    if monitor == 0:
        with ending_with_errors(errors_end):
            _become_container(job, status, errors_end)
    os.close(errors_end)
    while True:
        if os.waitpid(monitor, os.WNOHANG)[0]:
            raise ContainerError(read_text(errors).strip() or "bubblewrap ended")
        pid, _ = read_status(folder)
        if pid is not None:
            with contextlib.suppress(OSError):  # before it is executed, its name is the monitor's
                if Path(f"/proc/{pid}/comm").read_text() != Path(f"/proc/{monitor}/comm").read_text():
                    break
        time.sleep(0.0005)
    if not folder.exists():  # removed meanwhile
        os.kill(pid, signal.SIGKILL)
    job.answer(pid=pid)


def execute(job: Job) -> None:
    """Start a program in a container; its standard streams are the job's files. Answered once it runs."""
    entrances = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in job.arguments["entrances"]]
    enter(job.arguments, _ALL_BUT_USER)
    child = os.fork()
    if child == 0:
        try:
            _become_program(job, entrances)
        except BaseException as error:  # noqa: BLE001 - becomes the answer
            job.fail(error)
        os._exit(_ENDED_BEFORE_EXEC)
    for descriptor in (*entrances, *job.files, job.answer_end):
        os.close(descriptor)
    signal.setitimer(signal.ITIMER_REAL, 0)
    linux.set_process_name("srl-swe-exec")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    job.report_exit(128 - code if code < 0 else code)
    os._exit(0)


def pause(job: Job) -> None:
    """Stop every process of a container but process 1, at once."""
    _signal_all(job, signal.SIGSTOP)


def resume(job: Job) -> None:
    """Let them go on."""
    _signal_all(job, signal.SIGCONT)


def put_archive(job: Job) -> None:
    """Unpack a tar, the job's file, into a folder of a container."""
    enter(job.arguments, linux.CLONE_NEWNS)
    with os.fdopen(job.files[0], "rb") as source:
        archives.unpack(source, Path(job.arguments["path"]))
    job.answer()


def get_archive(job: Job) -> None:
    """Write the tar of a path in a container to the job's file; answered before, its end is reported as an exit."""
    enter(job.arguments, linux.CLONE_NEWNS)
    path = job.arguments["path"]
    signal.setitimer(signal.ITIMER_REAL, job.arguments["limit_s"])
    job.answer(link=archives.link_target(path))
    os.close(job.answer_end)
    code = 1
    try:
        with os.fdopen(job.files[0], "wb") as target:
            archives.pack(target, path)
        code = 0
    finally:
        job.report_exit(code)
        os._exit(code)


def unpack_layer(job: Job) -> None:
    """Unpack a tar, the job's file, into the folder of a layer."""
    _enter_layer(job)
    with os.fdopen(job.files[0], "rb") as source:
        archives.unpack(source, Path("/"), compressed=True, whiteouts=True)
    job.answer()


def complete_layer(job: Job) -> None:
    """Put into a layer what containers mount on, and the names and addresses that there are without a network."""
    _enter_layer(job)
    for folder in ("dev", "proc", "sys", "etc"):
        Path(folder).mkdir(mode=0o755, exist_ok=True)
    hosts = f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    for name, text in (("hosts", hosts), ("hostname", f"{HOSTNAME}\n"), ("resolv.conf", "")):
        Path("etc", name).write_text(text)
    job.answer()


def run_program(job: Job) -> None:
    """Run a program of the host (cp, rm, du) on the engine's files, as root of a user namespace like a container's."""
    argv = job.arguments["argv"]
    os.chdir(job.arguments["folder"])

    def attempt() -> None:
        enter_new(IdMap(**job.arguments["id_map"]))
        os.execvpe(argv[0], argv, {"PATH": os.defpath, "LC_ALL": "C"})

    code, said = run_child(attempt)
    job.answer(code=code, output=said)


TASKS: Mapping[str, Callable[[Job], None]] = {
    task.__name__: task
    for task in (
        probe,
        start,
        execute,
        pause,
        resume,
        put_archive,
        get_archive,
        unpack_layer,
        complete_layer,
        run_program,
    )
}


def _become_container(job: Job, status: int, errors_end: int) -> None:
    """Make the namespaces and the mounts of a container, and become bubblewrap, whose child becomes process 1."""
    arguments = job.arguments
    os.setsid()
    for path in arguments["entrances"]:
        Path(path).write_text("0")
    enter_new(IdMap(**arguments["id_map"]), linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWCGROUP)
    # Without further user namespaces nobody in it comes to have capabilities (the filter forbids them as well).
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.chdir("layers")
    own = f"../containers/{arguments['name']}"
    _mount_root(arguments["mark"], ":".join(arguments["layers"]), f"{own}/{UPPER}", f"{own}/{WORK}")
    for folder in (Path(_MERGED, name) for name in ("dev", "proc", "sys")):
        if folder.is_symlink() or not folder.is_dir():  # a link would lead to the host's
            raise NotADirectoryError(f"/{folder.name} of the image is no folder; nothing can be mounted there")
    _mount_sys(arguments["views"])
    linux.raise_loopback()
    _make_workdir(arguments["workdir"])
    set_rlimits(arguments["rlimits"])
    reset_signals()
    flags = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", HOSTNAME]
    flags += ["--bind", _MERGED, "/", "--proc", "/proc", "--dev", "/dev"]
    flags += ["--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    flags += ["--cap-drop", "ALL", *(word for one in arguments["capabilities"] for word in ("--cap-add", f"CAP_{one}"))]
    # As arguments: what stands in its own environment could have it load other libraries, on the host.
    flags += ["--clearenv", *(word for pair in arguments["environment"].items() for word in ("--setenv", *pair))]
    flags += ["--as-pid-1", "--chdir", "/", "--json-status-fd", str(status)]
    os.set_inheritable(status, True)
    if job.seccomp is not None:
        program = os.memfd_create("seccomp", 0)
        os.write(program, job.seccomp)
        os.lseek(program, 0, os.SEEK_SET)
        flags += ["--seccomp", str(program)]
    os.dup2(errors_end, 2)
    _execute_bwrap(job, [*flags, "--", *arguments["init"]])


def _execute_bwrap(job: Job, flags: Sequence[str]) -> NoReturn:
    path = job.arguments["bwrap"]
    if job.arguments["executable_is_ours"]:  # see `Spawner`
        path = f"/proc/self/fd/{linux.sealed_copy(path)}"
    os.execve(path, [b"bwrap", *map(_bytes, flags)], {})


def _become_program(job: Job, entrances: Sequence[int]) -> None:
    """Give up everything but what a container may do, and become a program in it."""
    arguments = job.arguments
    for descriptor in entrances:
        os.write(descriptor, b"0")
    os.setsid()
    streams = [os.dup(descriptor) for descriptor in job.files]  # their numbers may be 0 to 2
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    # A descriptor of the host's would be a way out.
    os.dup2(job.answer_end, 3, inheritable=False)
    job.answer_end = 3
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1)
    reset_signals()
    set_rlimits(arguments["rlimits"])
    uid, gid = arguments["user"]
    capabilities = [linux.CAPABILITIES.index(name) for name in arguments["capabilities"]]
    linux.drop_bounding_set(capabilities)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.set_capabilities(capabilities if uid == 0 else ())
    linux.forbid_new_privileges()
    os.chdir(arguments["workdir"])
    if Path.cwd().parts[0] != "/":
        raise PermissionError("the working directory is outside the container")
    if job.seccomp is not None:
        linux.load_seccomp(job.seccomp)
    environment = {_bytes(key): _bytes(value) for key, value in arguments["environment"].items()}
    job.answer(started=True)
    _execute([_bytes(argument) for argument in arguments["argv"]], environment)


def _execute(argv: list[bytes], environment: Mapping[bytes, bytes]) -> NoReturn:
    """Execute a program, looked for in PATH; raises the last error, "no such file" only where it is the only one."""
    name = argv[0]
    folders = [b"."] if b"/" in name else environment.get(b"PATH", b"").split(b":")
    error = OSError(2, "No such file or directory")
    for folder in folders:
        try:
            os.execve(name if b"/" in name else folder + b"/" + name, argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as other:
            error = other
    raise OSError(error.errno, f"{os.fsdecode(name)}: {error.strerror}")


def _enter_layer(job: Job) -> None:
    """Make the folder of a layer the root of this process, as the root of a user namespace like a container's."""
    os.chdir(job.arguments["folder"])
    enter_new(IdMap(**job.arguments["id_map"]))
    os.chroot(job.arguments["layer"])
    os.chdir("/")


def _signal_all(job: Job, number: signal.Signals) -> None:
    enter(job.arguments, linux.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, number)
        os._exit(0)
    os.waitpid(child, 0)
    job.answer()


def _mount_root(mark: str, layers: str, upper: str, work: str) -> None:
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_PRIVATE)
    # `volatile` leaves out syncs: nobody needs these files after a crash of the machine.
    options = f"lowerdir={layers},upperdir={upper},workdir={work},userxattr,volatile"
    linux.mount(mark, _MERGED, "overlay", linux.MS_NOSUID | linux.MS_NODEV, options)


def _mount_sys(views: Sequence[tuple[str, str]]) -> None:
    """Mount /sys, and in it what programs look at in order to know their limits, all read-only."""
    flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    groups = f"{_MERGED}/sys/fs/cgroup"
    with contextlib.suppress(OSError):  # where the host's are covered in part; few programs look there
        linux.mount("sysfs", f"{_MERGED}/sys", "sysfs", flags)
        of_version_1 = [(kind, controller) for kind, controller in views if controller]
        if of_version_1:
            linux.mount("tmpfs", groups, "tmpfs", flags & ~linux.MS_RDONLY, "mode=755")
        for kind, controller in views:
            folder = Path(groups, controller)
            folder.mkdir(exist_ok=True)
            linux.mount(kind, str(folder), kind, flags, controller)
        if of_version_1:
            linux.mount("none", groups, "none", linux.MS_REMOUNT | linux.MS_BIND | flags)


def _make_workdir(path: str) -> None:
    """Make the working directory where it is missing, as Docker does."""
    if path == "/":
        return
    child = os.fork()
    if child == 0:
        try:
            os.chroot(_MERGED)
            Path(path).mkdir(parents=True, exist_ok=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="replace")
