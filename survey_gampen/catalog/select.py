"""``--select``: an expression typed by a user, turned into a filter of the scan.

The text is parsed as Python but never run: only comparisons, ``and``/``or``/``not``, arithmetic,
column names, numbers, strings, ``in [...]`` and ``is None`` are let through.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from survey_gampen.errors import InputError

_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    # Division is that of Python and of algebra: never the integer one.
    ast.Div: lambda a, b: a.cast(pa.float64()) / b.cast(pa.float64()),
}


@dataclass(frozen=True)
class Selection:
    """A compiled selection: what to evaluate, and the columns it needs."""

    expression: pc.Expression
    columns: tuple[str, ...]


def parse_select(text: str, schema: pa.Schema, aliases: Mapping[str, str]) -> Selection:
    """Compile a selection.

    Parameters
    ----------
    text : str
        For example ``"mag < 21 and (flag == 0 or field in ['XMM', 'GAMA'])"``.
    schema : pyarrow.Schema
        The columns of the catalogue.
    aliases : mapping
        Other names that may be used, to names in `schema` (``ra``, ``dec``, ``object_id``).

    Raises
    ------
    InputError
        When the text is no such expression, names an unknown column (the nearest is named), or
        compares what cannot be compared.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(f"--select {text!r} is not an expression: {error}") from None
    compiler = _Compiler(text, schema, aliases)
    try:
        expression = compiler.compile(tree)
        # A scan of nothing finds wrong types now, with no row read.
        kind = _type_of(expression, schema)
    except (pa.ArrowException, TypeError, OverflowError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"--select {text!r} does not fit the columns' types: {words}") from None
    if not pa.types.is_boolean(kind):
        raise InputError(
            f"--select {text!r} gives {kind}, not true or false; compare it with something"
        )
    return Selection(expression, tuple(compiler.columns))


def _type_of(expression: pc.Expression, schema: pa.Schema) -> pa.DataType:
    import pyarrow.dataset as pads

    empty = pads.dataset(schema.empty_table()).to_table(columns={"x": expression})
    return empty.schema.field("x").type


class _Compiler:
    def __init__(self, text: str, schema: pa.Schema, aliases: Mapping[str, str]) -> None:
        self.text, self.schema, self.aliases = text, schema, aliases
        self.columns: dict[str, None] = {}

    def compile(self, node: ast.expr) -> pc.Expression:
        match node:
            case ast.BoolOp(op=ast.And(), values=[first, *rest]):
                whole = self.compile(first)
                for part in rest:
                    whole = whole & self.compile(part)
                return whole
            case ast.BoolOp(values=[first, *rest]):
                whole = self.compile(first)
                for part in rest:
                    whole = whole | self.compile(part)
                return whole
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self.compile(left) & self.compile(right)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.compile(left) | self.compile(right)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self.operand(left), self.operand(right))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self.compile(operand)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return pc.scalar(-value)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return pc.scalar(0) - self.operand(operand)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self.comparison(left, ops, comparators)
            case ast.Name(id=name):
                return pc.field(self.column(name))
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return pc.scalar(value)
        raise self.refusal(node)

    def comparison(
        self, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr]
    ) -> pc.Expression:
        """A chain ``a < b <= c`` is ``a < b and b <= c``."""
        whole: pc.Expression | None = None
        for op, right in zip(ops, rights, strict=True):
            match op, right:
                case ((ast.In() | ast.NotIn()), (ast.List() | ast.Tuple() | ast.Set())):
                    part = self.compile(left).isin(self.values(right.elts))
                    part = ~part if isinstance(op, ast.NotIn) else part
                case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
                    part = self.compile(left).is_null(nan_is_null=True)
                    part = ~part if isinstance(op, ast.IsNot) else part
                case _ if type(op) in _COMPARISONS:
                    part = _COMPARISONS[type(op)](self.compile(left), self.compile(right))
                case _:
                    raise self.refusal(right)
            whole = part if whole is None else whole & part
            left = right
        assert whole is not None
        return whole

    def operand(self, node: ast.expr) -> pc.Expression:
        """A side of + - * /, small integers widened so that nothing overflows by surprise."""
        expression = self.compile(node)
        if isinstance(node, ast.Name):
            kind = self.schema.field(self.column(node.id)).type
            if pa.types.is_integer(kind) and kind.bit_width < 64:
                return expression.cast(pa.int64())
        return expression

    def values(self, nodes: list[ast.expr]) -> list[Any]:
        try:
            values = [ast.literal_eval(node) for node in nodes]
        except ValueError:
            raise self.refusal(nodes[0]) from None
        if not all(isinstance(value, bool | int | float | str) for value in values):
            raise self.refusal(nodes[0])
        return values

    def column(self, name: str) -> str:
        found = name if name in self.schema.names else self.aliases.get(name)
        if found is not None:
            self.columns[found] = None
            return found
        near = difflib.get_close_matches(name, [*self.schema.names, *self.aliases], n=1, cutoff=0)
        raise InputError(
            f"--select {self.text!r}: there is no column {name!r}; the nearest is {near[0]!r}"
        )

    def refusal(self, node: ast.expr) -> InputError:
        return InputError(
            f"--select {self.text!r}: {ast.unparse(node)!r} is not understood; use comparisons, "
            "and/or/not, + - * /, column names, numbers, strings, in [...] and is None"
        )
