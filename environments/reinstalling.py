"""The installation that an evaluation script repeats before the tests, left out where it would change nothing.

498 of the 500 scripts of SWE-bench Verified install the package anew; 490 of them in place (`pip install -e .`), so
that the work tree is what is tested with or without it. What may make a difference keeps the installation: a changed
file that is no plain Python module, or that may be part of building or of the version; a new module where the
installation may not know its folder. Nothing else of a script is touched.
"""

import posixpath
import re

from srl_swe.environments.container import Container
from srl_swe.environments.official_rules import START_MARKER
from srl_swe.environments.patching import touched_parts
from srl_swe.types import Instance

_IN_PLACE = re.compile(
    r"[ \t]*(?:python\S*[ \t]+-m[ \t]+)?pip3?[ \t]+install[ \t]"
    r"(?=(?:.*[ \t])?(?:-e|--editable)[ \t]+['\"]?\.)[^;&|<>`$()\\]*"
)
_HEREDOC = re.compile(r"<<-?[ \t]*['\"]?(\w+)['\"]?")
_PLAIN = (".py", ".pyi", ".md", ".rst")
_OF_BUILDING = re.compile(r"setup|build|version|install", re.IGNORECASE)
_OTHER_HEADER = re.compile(r"^(?:diff --git \"|(?:---|\+\+\+) (?![ab]/|/dev/null$)|GIT binary patch$)", re.MULTILINE)
"""A line of a patch that names a file in another way than `touched_parts` reads, or has no text."""


def without_reinstall(container: Container, instance: Instance, patch: str) -> tuple[str, tuple[str, ...]]:
    """Return the instance's script without what installs the package in place once more, and those lines.

    The patch is in the container's work tree, over the commit that its image has.
    """
    kept, left_out = _split(instance.tests.script)
    if not left_out or not _leaves_installation(container, instance.environment.workdir, patch):
        return instance.tests.script, ()
    return kept, left_out


def _split(script: str) -> tuple[str, tuple[str, ...]]:
    before, marker, rest = script.partition(START_MARKER)
    kept: list[str] = []
    left_out: list[str] = []
    ends = ""
    for line in before.splitlines(keepends=True):
        if ends:
            ends = "" if line.strip() == ends else ends
        elif _IN_PLACE.fullmatch(line.rstrip("\n")):
            left_out.append(line.strip())
            continue
        elif heredoc := _HEREDOC.search(line):
            ends = heredoc[1]
        kept.append(line)
    return "".join(kept) + marker + rest, tuple(left_out)


def _leaves_installation(container: Container, workdir: str, patch: str) -> bool:
    """Tell whether an installation in place is the same with the patch as without it."""
    parts = touched_parts(patch)
    if not parts or _OTHER_HEADER.search(patch):
        return False
    for path, changes in parts.items():
        if not path.endswith(_PLAIN) or _OF_BUILDING.search(path) or "version" in changes.lower():
            return False
    # A module that the commit does not have is found where its folder is a package that the commit has.
    look = (
        'cd "$1" && shift && while [ $# -gt 1 ]; do'
        ' git cat-file -e "HEAD:$1" 2>/dev/null || git cat-file -e "HEAD:$2" 2>/dev/null || exit 1; shift 2; done'
    )
    words = [
        word
        for path in sorted(parts)
        if path.endswith((".py", ".pyi"))
        for word in (path, posixpath.join(posixpath.dirname(path), "__init__.py"))
    ]
    return container.execute(["bash", "-c", look, "look", workdir, *words]).exit_code == 0
