"""Python code -> what it would fetch, run, read and write, as far as its text says so without running it.

Only calls whose arguments are written out, or come from a name that is given such a value once, are seen. What follows
from them is left to `cheat_signs`.
"""

import ast
import shlex
import warnings
from dataclasses import dataclass

_MAX_CODE_CHARS = 200_000
_SHELL_CALLS = frozenset({"system", "popen", "run", "call", "check_output", "check_call", "Popen", "getoutput"})
_FETCH_CALLS = frozenset(
    {"urlopen", "urlretrieve", "Request", "get", "post", "head", "request", "stream", "clone_from", "download"}
)
_CONNECTIONS = frozenset({"HTTPSConnection", "HTTPConnection", "create_connection"})
_PATH_READS = frozenset({"read_text", "read_bytes"})
_PATH_WRITES = frozenset({"write_text", "write_bytes", "touch", "unlink", "symlink_to"})
_REMOVALS = frozenset({"remove", "unlink", "truncate"})
_COPIES = frozenset({"copy", "copy2", "copyfile", "move", "rename", "replace", "symlink", "link"})


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonEffects:
    """What a text of Python code would do."""

    urls: tuple[str, ...] = ()
    """What it would fetch; data sets of the hub as "https://huggingface.co/datasets/NAME"."""
    commands: tuple[str, ...] = ()
    """Shell text that it would run."""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    """Paths of files that it would write or remove."""


def python_effects(code: str) -> PythonEffects:
    """Return what a text would do; nothing where it is no Python, or longer than 200,000 characters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code if len(code) <= _MAX_CODE_CHARS else "")
        reader = _Reader()
        reader.visit(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return PythonEffects()
    return PythonEffects(
        urls=tuple(reader.urls),
        commands=tuple(reader.commands),
        reads=tuple(reader.reads),
        writes=tuple(reader.writes),
    )


class _Reader(ast.NodeVisitor):
    """Collects the effects of the calls of a module, in the order in which they are written."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.commands: list[str] = []
        self.reads: list[str] = []
        self.writes: list[str] = []
        self._names: dict[str, str] = {}
        self._modules: dict[str, str] = {}

    def visit_Import(self, node: ast.Import) -> None:
        self._modules.update({alias.asname: alias.name for alias in node.names if alias.asname})

    def visit_Assign(self, node: ast.Assign) -> None:
        text = self._text(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name) and text is not None:
                self._names[target.id] = text
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name, owner = _called(node.func)
        owner = self._modules.get(owner, owner)
        texts = [self._text(argument) for argument in node.args]
        given = [text for text in texts if text is not None]
        if name in _SHELL_CALLS and owner in ("os", "subprocess", ""):
            self.commands += self._commands(node)
        if name in _FETCH_CALLS:
            self.urls += [text for text in given[:2] if "://" in text]
        if name in _CONNECTIONS and given:
            self.urls.append(f"https://{given[0]}")
        if name == "load_dataset" and given:
            self.urls.append(f"https://huggingface.co/datasets/{given[0]}")
        self._files(node, name, owner, texts)
        self.generic_visit(node)

    def _commands(self, node: ast.Call) -> list[str]:
        if not node.args:
            return []
        first = node.args[0]
        if isinstance(first, (ast.List, ast.Tuple)):
            words = [self._text(word) for word in first.elts]
            return [shlex.join(word if word is not None else "?" for word in words)]
        text = self._text(first)
        return [] if text is None else [text]

    def _files(self, node: ast.Call, name: str, owner: str, texts: list[str | None]) -> None:
        first = texts[0] if texts else None
        if name == "open" and owner in ("", "io", "codecs", "builtins") and first is not None:
            self._opened(first, node, mode=1)
        elif isinstance(node.func, ast.Attribute) and (path := self._text(node.func.value)) is not None:
            if name == "open":
                self._opened(path, node, mode=0)
            elif name in _PATH_READS:
                self.reads.append(path)
            elif name in _PATH_WRITES:
                self.writes.append(path)
        elif owner in ("os", "shutil") and name in _REMOVALS and first is not None:
            self.writes.append(first)
        elif owner in ("os", "shutil") and name in _COPIES and len(texts) > 1 and texts[1] is not None:
            self.writes.append(texts[1])

    def _opened(self, path: str, node: ast.Call, *, mode: int) -> None:
        modes = [*node.args[mode : mode + 1], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        text = self._text(modes[0]) if modes else "r"
        (self.writes if text and set(text) & set("wax+") else self.reads).append(path)

    def _text(self, node: ast.expr) -> str | None:
        """Return the text that an expression stands for; a path is its text."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Call) and _called(node.func)[0] in ("Path", "PurePath", "str") and node.args:
            return self._text(node.args[0])
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.Add)):
            left, right = self._text(node.left), self._text(node.right)
            between = "/" if isinstance(node.op, ast.Div) else ""
            return None if left is None or right is None else f"{left}{between}{right}"
        return None


def _called(function: ast.expr) -> tuple[str, str]:
    """Return the name that is called, and the name in front of it."""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return function.attr, owner.id if isinstance(owner, ast.Name) else "?"
    return (function.id, "") if isinstance(function, ast.Name) else ("", "?")
