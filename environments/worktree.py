"""The git work tree of a container: its history before an episode, its patch afterwards.

The patch never trusts what the agent may have changed in the repository: it is made with a git
directory of its own that borrows only the objects. Left out: applying patches (`grading.py`).
"""

import logging
from dataclasses import dataclass

from srl_swe.environments.container import Container
from srl_swe.errors import ContainerError, DataError, EngineTimeoutError, EngineUnavailableError

LOGGER = logging.getLogger(__name__)

MAX_PATCH_BYTES = 32 << 20
"""A larger patch counts as none."""

_GIT_TIMEOUT_S = 120.0
_FORGET_TIMEOUT_S = 900.0
"""A history of a million objects is walked and packed within minutes."""
_ALWAYS_IGNORED = "__pycache__/\n*.py[co]\n"

# GIT_DIR spares git's question about who owns the tree. What stays is what HEAD, the refs that it contains and the
# index need; where anything else lies among the objects, these are packed anew and all other files removed.
FORGET_SCRIPT = r"""
cd -- "$1" || exit
export GIT_DIR="$PWD/.git" GIT_WORK_TREE="$PWD"
directory=$(git rev-parse --absolute-git-dir) && objects=$(git rev-parse --git-path objects) || exit
objects=$(cd -- "$objects" && pwd -P) || exit
for remote in $(git remote); do git remote remove "$remote"; done
doomed=$(git for-each-ref --format='delete %(refname)' refs/remotes refs/stash refs/notes refs/replace
         git for-each-ref --format='delete %(refname)' --no-merged=HEAD
         git for-each-ref --format='%(objecttype)%(*objecttype) %(refname)' |
           sed -n '/^[^ ]*commit /!s/^[^ ]* /delete /p')
if [ -n "$doomed" ]; then printf '%s\n' "$doomed" | sort -u | git update-ref --stdin || exit; fi
(cd -- "$directory" && rm -rf logs rr-cache *_HEAD *_MSG *_EDITMSG BISECT_* info/grafts info/refs)
rm -rf -- "$objects"/info/commit-graph "$objects"/info/commit-graphs
held() { git cat-file --batch-all-objects --batch-check='%(objectname)' | sort -u; }
needed() { git rev-list --objects --all --indexed-objects HEAD | cut -d ' ' -f 1 | sort -u; }
scratch=$(mktemp -d) || exit
set -o pipefail
held >"$scratch/held" && needed >"$scratch/needed" || exit
if ! cmp -s "$scratch/held" "$scratch/needed"; then
  echo HEAD | git pack-objects -q --revs --all --indexed-objects --delta-base-offset "$scratch/pack" >/dev/null || exit
  rm -rf -- "$objects"/?? "$objects"/pack "$objects"/info && mkdir "$objects"/pack "$objects"/info || exit
  mv -- "$scratch"/pack-* "$objects"/pack/ && chmod 444 -- "$objects"/pack/* || exit
  held | cmp -s - "$scratch/needed" || { echo "objects remain that HEAD does not need"; exit 1; }
fi
rm -rf -- "$scratch"
"""

_RECORD = r"""
cd -- "$1" || exit
export GIT_DIR="$PWD/.git" GIT_WORK_TREE="$PWD"
git rev-parse --verify HEAD^{commit} && (cd -- "$(git rev-parse --git-path objects)" && pwd -P) || exit
exclude=$(git rev-parse --git-path info/exclude)
if [ -f "$exclude" ]; then cat "$exclude"; fi
"""

_PREPARE = r"""
cd -- "$1" || exit
base=$2 objects=$3
export HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
scratch=$(mktemp -d) && git init -q --bare --template= "$scratch" || exit
mkdir -p "$scratch/info" "$scratch/objects/info" || exit
printf '%s\n' "$objects" >"$scratch/objects/info/alternates"
printf '%s\n' "$4" >"$scratch/info/exclude"
export GIT_DIR="$scratch" GIT_WORK_TREE="$PWD"
git config core.bare false
git config core.hooksPath /dev/null
git config core.fsmonitor false
git config core.quotePath true
git cat-file -e "$base^{tree}" && git read-tree "$base" || exit
# Without capabilities root is bound by permission bits as well, and git must read what it adds.
find . -path ./.git -prune -o -type d ! -perm -u=rwx -exec chmod u+rwx {} \; \
  -o -type f ! -perm -u=r -exec chmod u+r {} + 2>/dev/null
# A repository inside the tree would enter the patch as a link to a commit that nobody else has.
find . -mindepth 2 -name .git -prune -print0 | while IFS= read -r -d '' nested; do
  git ls-files --stage -- ":(literal)${nested%/.git}" | grep -q '^160000 ' || rm -rf -- "$nested"
done
git add --all --ignore-errors . >"$scratch/problem" 2>&1 && : >"$scratch/problem"
git diff --cached --name-only --no-renames -z "$base" >"$scratch/names" || exit
printf '%s' "$scratch"
"""

_DIFF = r"""
cd -- "$1" || exit
export HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
export GIT_DIR="$3" GIT_WORK_TREE="$PWD"
git diff --cached --binary --full-index --no-renames --no-color --no-ext-diff --no-textconv \
  --src-prefix=a/ --dst-prefix=b/ "$2" >"$3/patch"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkTreeBase:
    """What a work tree was before the agent came."""

    commit: str
    """HEAD; the patch is relative to it."""
    objects: str
    """Folder of the git objects in the container."""
    exclude: str
    """Content of .git/info/exclude."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractedPatch:
    """The difference between a work tree and its base."""

    patch: str
    """Unified diff that `git apply` takes; files that are not UTF-8 as binary patches; "" = no change."""
    problem: str = ""
    """Why the patch is empty or incomplete through the agent's own doing; "" = nothing is wrong."""


def forget_history(container: Container, workdir: str) -> None:
    """Remove what lies after HEAD from the repository: remotes, reflogs, refs that HEAD does not contain, and every
    object that only they reached or that nothing reached.

    Raises:
        ContainerError: it cannot be removed.
    """
    result = container.execute(["/bin/bash", "-c", FORGET_SCRIPT, "bash", workdir], timeout_s=_FORGET_TIMEOUT_S)
    if result.exit_code != 0:
        raise ContainerError(
            f"container {container.name}: cannot remove later history from {workdir}: {result.output.strip()[-1000:]}"
        )


def record_base(container: Container, workdir: str) -> WorkTreeBase:
    """Note what a work tree is before an agent gets to it.

    Raises:
        ContainerError: it is not a git work tree with a commit.
    """
    result = container.execute(["/bin/bash", "-c", _RECORD, "bash", workdir], timeout_s=_GIT_TIMEOUT_S)
    lines = result.output.split("\n", 2)
    if result.exit_code != 0 or len(lines) < 3:
        raise ContainerError(
            f"container {container.name}: expected {workdir} to be a git work tree with a commit: "
            f"{result.output.strip()[-1000:]}"
        )
    return WorkTreeBase(commit=lines[0], objects=lines[1], exclude=lines[2])


def extract_patch(container: Container, workdir: str, base: WorkTreeBase) -> ExtractedPatch:
    """Return what changed in a work tree since `base`, new files included, commits or not.

    Ends every process of the container first. Ignored files and Python's byte code stay out.

    Raises:
        ContainerError: the engine or the container failed.
    """
    try:
        container.kill_processes()
        return _extract(container, workdir, base)
    except (EngineTimeoutError, EngineUnavailableError):
        raise
    except (ContainerError, FileNotFoundError, IsADirectoryError, DataError) as error:
        # Whoever may delete git and bash may also make them fail: as long as the container runs, that is data.
        container.require_running()
        return ExtractedPatch(patch="", problem=str(error))


def _extract(container: Container, workdir: str, base: WorkTreeBase) -> ExtractedPatch:
    prepared = container.execute(
        ["/bin/bash", "-c", _PREPARE, "bash", workdir, base.commit, base.objects, _ALWAYS_IGNORED + base.exclude],
        timeout_s=_GIT_TIMEOUT_S,
        workdir="/",
    )
    if prepared.exit_code != 0:
        why = "the time limit was reached" if prepared.timed_out else prepared.output.strip()[-1000:]
        return ExtractedPatch(patch="", problem=f"no patch can be made of {workdir}: {why}")
    scratch = prepared.output
    patch = _diff(container, workdir, base, scratch)
    foreign = _not_utf8(patch, container.read_file(f"{scratch}/names", max_bytes=MAX_PATCH_BYTES))
    if foreign:
        attributes = b"".join(_attribute_line(name) for name in foreign)
        container.write_file(f"{scratch}/info/attributes", attributes)
        patch = _diff(container, workdir, base, scratch)
    problem = container.read_file(f"{scratch}/problem", max_bytes=1 << 20).decode(errors="replace").strip()
    return ExtractedPatch(patch=patch.decode(), problem=problem[-1000:])


def _diff(container: Container, workdir: str, base: WorkTreeBase, scratch: str) -> bytes:
    result = container.execute(
        ["/bin/bash", "-c", _DIFF, "bash", workdir, base.commit, scratch], timeout_s=_GIT_TIMEOUT_S, workdir="/"
    )
    if result.exit_code != 0:
        raise DataError(f"git diff ended with exit code {result.exit_code}: {result.output.strip()[-1000:]}")
    return container.read_file(f"{scratch}/patch", max_bytes=MAX_PATCH_BYTES)


def _not_utf8(patch: bytes, names: bytes) -> list[bytes]:
    """Return the names of the files whose part of the patch is not UTF-8.

    Git writes the parts in the order of the names, and no other line starts with "diff --git ".
    """
    parts = (b"\n" + patch).split(b"\ndiff --git ")[1:]
    return [name for name, part in zip(names.split(b"\0"), parts, strict=False) if not _is_utf8(part)]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _attribute_line(name: bytes) -> bytes:
    """Return the gitattributes line that makes git treat one file as binary."""
    pattern = b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in name)
    quoted = b"".join(b"\\%03o" % byte if byte < 32 or byte in b'"\\' else bytes([byte]) for byte in pattern)
    return b'"/%s" -diff\n' % quoted
