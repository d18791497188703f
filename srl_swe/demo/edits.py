"""The single changes that can be made to a module's functions: spans of the source and what to put there.

Each kind is a mistake that people make. Files, patches and the choice among edits are `srl_swe.demo.bugs`'.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
SIBLING_EXCEPTIONS = {
    "KeyError": "IndexError",
    "IndexError": "KeyError",
    "StopIteration": "RuntimeError",
    "AttributeError": "NameError",
    "TypeError": "AttributeError",
    "ValueError": "KeyError",
}
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """Replace the bytes `start` to `end` (exclusive) of the source."""

    kind: str
    class_name: str
    function: str
    start: int
    end: int
    replacement: bytes


class _Positions:
    """Byte offsets of nodes (ast counts columns in UTF-8 bytes)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._line_starts = [0]
        for line in data.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self._line_starts[node.lineno - 1] + node.col_offset,
            self._line_starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        start, end = self.span(node)
        return self.data[start:end]

    def whole_line(self, statement: ast.stmt) -> tuple[int, int] | None:
        """Span of the line that holds this statement and nothing else; None when there is no such line."""
        if statement.lineno != statement.end_lineno:
            return None
        start, end = self._line_starts[statement.lineno - 1], self._line_starts[statement.lineno]
        return (start, end) if self.data[start:end].strip() == self.text(statement) else None


def edits(tree: ast.Module, data: bytes) -> Iterator[Edit]:
    """Yield every edit inside the functions and methods of a module; `data` is its source in UTF-8."""
    positions = _Positions(data)
    for owner, function in _functions(tree):
        for node in _inner_nodes(function):
            for kind, start, end, replacement in _node_edits(node, positions):
                if b"\n" not in data[start : end - 1]:
                    yield Edit(
                        kind=kind,
                        class_name=owner,
                        function=function.name,
                        start=start,
                        end=end,
                        replacement=replacement,
                    )


def _functions(tree: ast.Module) -> Iterator[tuple[str, FunctionNode]]:
    """Yield the module's functions and its classes' methods, each with the name of its class ("" for functions)."""
    for node in tree.body:
        if isinstance(node, FunctionNode):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, FunctionNode):
                    yield node.name, member


def _inner_nodes(function: FunctionNode) -> Iterator[ast.AST]:
    """Yield the function, its defaults and its body, without docstrings, decorators and annotations."""
    yield function
    defaults = [*function.args.defaults, *(default for default in function.args.kw_defaults if default is not None)]
    waiting: list[ast.AST] = [*defaults, *function.body]
    while waiting:
        node = waiting.pop()
        if _is_docstring(node):
            continue
        yield node
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "decorator_list", "returns"):
                children = value if isinstance(value, list) else [value]
                waiting += [child for child in children if isinstance(child, ast.AST)]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _node_edits(node: ast.AST, positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            yield from _operator_edit("comparison_operator", left, right, COMPARISONS[type(operator)], positions)
            if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                for side in (left, right):
                    yield from _bound_edits(side, positions)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
            if not any(_is_text(side) for side in (left, right)):
                yield from _operator_edit("arithmetic_operator", left, right, ARITHMETIC[type(operator)], positions)
                for side in (left, right):
                    yield from _bound_edits(side, positions)
        case ast.BoolOp(op=operator, values=[first, second, *_]):
            words = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
            yield from _operator_edit("boolean_operator", first, second, words, positions)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield from _negation(test, positions)
        case ast.comprehension(ifs=conditions):
            for condition in conditions:
                yield from _negation(condition, positions)
        case ast.Call(func=function, args=[first, second, *_]):
            if not any(isinstance(argument, ast.Starred) for argument in (first, second)):
                yield from _swap("swapped_arguments", first, second, positions)
            if isinstance(function, ast.Name) and function.id == "range":
                for side in (first, second):
                    yield from _bound_edits(side, positions)
        case ast.Subscript(slice=ast.Slice(lower=lower, upper=upper)):
            for bound in (lower, upper):
                if bound is not None:
                    yield from _bound_edits(bound, positions)
        case ast.Subscript(slice=ast.Constant() | ast.UnaryOp() as index):
            yield from _bound_edits(index, positions)
        case ast.Constant(value=bool() as value):
            yield ("constant", *positions.span(node), str(not value).encode())
        case ast.Return(value=ast.expr() as value):
            yield from _return_edits(value, positions)
        case ast.ExceptHandler(type=ast.Name(id=name) as caught) if name in SIBLING_EXCEPTIONS:
            yield ("exception_type", *positions.span(caught), SIBLING_EXCEPTIONS[name].encode())
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _wrong_variable_edits(node, positions)
        case _:
            pass
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
            yield from _dropped_statements(body, positions)


def _operator_edit(
    kind: str, left: ast.expr, right: ast.expr, words: tuple[str, str], positions: _Positions
) -> Iterator[tuple[str, int, int, bytes]]:
    start, end = positions.span(left)[1], positions.span(right)[0]
    old, new = (word.encode() for word in words)
    found = re.fullmatch(
        rb"([\s)\\]*)" + re.escape(old).replace(rb"\ ", rb"\s+") + rb"([\s(\\]*)", positions.data[start:end]
    )
    if found:
        yield kind, start + len(found[1]), end - len(found[2]), new


def _bound_edits(node: ast.expr, positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value + 1, node.value - 1):
            if value >= 0:
                yield ("off_by_one", *positions.span(node), str(value).encode())
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield ("off_by_one", *positions.span(node), f"{node.id} + 1".encode())


def _negation(test: ast.expr, positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    start, end = positions.span(test)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield "negated_condition", start, positions.span(test.operand)[0], b""
    elif isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        yield "negated_condition", start, end, b"not " + positions.text(test)


def _swap(kind: str, first: ast.expr, second: ast.expr, positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    (start, first_end), (second_start, end) = positions.span(first), positions.span(second)
    between = positions.data[first_end:second_start]
    yield kind, start, end, positions.text(second) + between + positions.text(first)


def _return_edits(value: ast.expr, positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    start, end = positions.span(value)
    match value:
        case ast.Tuple(elts=[first, second]):
            yield from _swap("wrong_return", first, second, positions)
        case ast.Call(args=[ast.Name() | ast.Call() as inner]):
            yield "wrong_return", start, end, positions.text(inner)
        case ast.Name() | ast.Attribute() | ast.Subscript():
            yield "wrong_return", start, end, b"None"
        case _:
            pass


def _wrong_variable_edits(function: FunctionNode, positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    """A parameter is read where its neighbour was meant; nested functions are left alone."""
    names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    if len(names) < 2:
        return
    for statement in function.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
                other = names[(names.index(node.id) + 1) % len(names)]
                yield ("wrong_variable", *positions.span(node), other.encode())


def _dropped_statements(body: list[ast.stmt], positions: _Positions) -> Iterator[tuple[str, int, int, bytes]]:
    droppable = (ast.Expr, ast.Assign, ast.AugAssign, ast.Continue, ast.Break, ast.Raise, ast.Return)
    for statement in body:
        if not isinstance(statement, droppable) or _is_docstring(statement):
            continue
        line = positions.whole_line(statement)
        if line is None:
            continue
        if len(body) > 1:
            yield ("dropped_statement", *line, b"")
        else:
            yield ("dropped_statement", *positions.span(statement), b"pass")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
