"""Looks for an instance's gold patch everywhere in a container that an agent gets."""

import json
import re

from srl_swe.environments.sessions import Session
from srl_swe.types import Instance

# Every regular file, and every git object unpacked, is searched for stretches that only the repaired code has.
_SCRIPT = r"""
import json, os, subprocess, sys
stretches = [text.encode() for text in json.load(open("/tmp/stretches"))]
os.remove("/tmp/stretches")
# What the broken code has as well, at another place or around it, gives nothing away.
broken = subprocess.run(["git", "archive", "HEAD"], cwd=sys.argv[1], stdout=subprocess.PIPE).stdout
stretches = [stretch for stretch in stretches if stretch not in broken]
print(len(stretches))
def look(where, data):
    for stretch in stretches:
        if stretch in data:
            print(where, repr(stretch))
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            look(path, open(path, "rb").read())
objects = subprocess.run(["git", "cat-file", "--batch-all-objects", "--batch"], cwd=sys.argv[1], stdout=subprocess.PIPE)
look("git objects", objects.stdout)
look("environment of init", open("/proc/1/environ", "rb").read())
"""


def gold_stretches(instance: Instance) -> list[str]:
    """Return the runs of lines that the gold patch adds, each with the line before it: the broken code has none."""
    stretches = []
    for hunk in re.split(r"^@@.*$", instance.gold_patch, flags=re.MULTILINE)[1:]:
        before, added = "", []
        for line in [*hunk.split("\n")[1:], " "]:
            if line.startswith("+"):
                added.append(line[1:])
            elif not line.startswith("-"):
                if added:
                    stretches.append("\n".join([before, *added]))
                before, added = line[1:], []
    return [stretch for stretch in stretches if len(stretch) >= 60]


def find_gold(session: Session, instance: Instance) -> tuple[int, list[str]]:
    """Return how many stretches were looked for, and where they stand in the container."""
    session.container.write_file("/tmp/stretches", json.dumps(gold_stretches(instance)).encode())
    argv = ["python3", "-I", "-c", _SCRIPT, instance.environment.workdir]
    result = session.container.execute(argv, timeout_s=300, max_output_bytes=1 << 20)
    assert result.exit_code == 0, result.output
    number, *places = result.output.splitlines()
    return int(number), places
