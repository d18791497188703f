"""All that a container's next user could notice, as lines to compare: files, processes, settings, kernel objects."""

from srl_swe.environments.sessions import Session

# Run by the container's own interpreter; what the kernel or the engine writes is left out.
_SCRIPT = r"""
import hashlib, os, stat
SKIP = {"/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/run/.containerenv",
        "/.dockerenv", "/dev/pts", "/dev/mqueue"}
def lines(path):
    entry = os.lstat(path)
    kind = stat.S_IFMT(entry.st_mode)
    content = ""
    if stat.S_ISREG(entry.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest() + " %d %d" % (entry.st_mtime_ns, entry.st_nlink)
    elif stat.S_ISLNK(entry.st_mode):
        content = os.readlink(path)
    yield "%s %o %d:%d %s" % (path, entry.st_mode, entry.st_uid, entry.st_gid, content)
    if stat.S_ISDIR(entry.st_mode):
        for name in sorted(os.listdir(path)):
            child = os.path.join(path, name)
            if child not in SKIP:
                yield from lines(child)
for line in lines("/"):
    print(line)
print(sorted(os.listdir("/dev/mqueue")) if os.path.isdir("/dev/mqueue") else [])
for name in ("shm", "msg", "sem"):
    if os.path.exists("/proc/sysvipc/" + name):
        print(open("/proc/sysvipc/" + name).read().count("\n"), name)
print(sorted(open("/proc/" + pid + "/comm").read().strip() for pid in os.listdir("/proc") if pid.isdigit()))
print(open("/proc/self/limits").read())
"""

_SETTINGS = r"""
set | grep -v '^\(BASHPID\|EPOCH[A-Z]*\|RANDOM\|SRANDOM\|SECONDS\|PPID\|HISTCMD\|BASH_[A-Z0-9]*\|_\|PIPESTATUS\)='
alias; trap; umask; ulimit -a; pwd; jobs
git config --list --show-origin; git status --short; git for-each-ref
git cat-file --batch-all-objects --batch-check
"""


def content_lines(session: Session) -> list[str]:
    """Return one line for every file outside /proc and /sys, then processes, kernel objects, limits, shell and git."""
    files = session.container.execute(["python3", "-I", "-c", _SCRIPT], max_output_bytes=64 << 20, timeout_s=300)
    assert files.exit_code == 0, files.output[-2000:]
    shell = session.shell.run(_SETTINGS, timeout_s=60, max_output_bytes=16 << 20)
    return (files.output + shell.output).splitlines()
