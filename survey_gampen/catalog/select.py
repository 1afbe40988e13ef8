"""``--select``: an expression typed by a user, turned into a filter of the scan.

The text is parsed as Python but never run: only comparisons, ``and``/``or``/``not``, arithmetic,
column names, numbers, strings, ``in [...]``, ``is None`` and the bits of a column (``flags & 6``)
are let through. ``@name`` stands for a cut that the survey profile names.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from survey_gampen import cuts as named
from survey_gampen.catalog.selection import Selection
from survey_gampen.errors import InputError

_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}
#: How databases write flags in tables of text, in capitals or not.
_TRUE, _FALSE = ["true", "t"], ["false", "f"]
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    # Division is that of algebra, never the integer one; by zero it gives infinity or NaN, so that
    # one such row does not stop the scan (the operator of expressions checks, and would).
    ast.Div: lambda a, b: pc.divide(a.cast(pa.float64()), b.cast(pa.float64())),
}


def parse_select(
    text: str,
    schema: pa.Schema,
    aliases: Mapping[str, str],
    cuts: Mapping[str, str] | None = None,
) -> Selection:
    """Compile a selection.

    Parameters
    ----------
    text : str
        For example ``"mag < 21 and (flag == 0 or field in ['XMM', 'GAMA'])"``. It is split where
        ``and`` joins the whole, so that what each condition loses can be counted.
    schema : pyarrow.Schema
        The columns of the catalogue.
    aliases : mapping
        Other names that may be used, to names in `schema` (``ra``, ``dec``, ``object_id``).
    cuts : mapping, optional
        Expressions by the name under which ``@name`` asks for them.

    Raises
    ------
    InputError
        When the text is no such expression, names an unknown column or cut (the nearest is named),
        or compares what cannot be compared.
    """
    expressions: list[pc.Expression] = []
    columns: dict[str, None] = {}
    conditions = named.split(text, cuts or {})
    for condition in conditions:
        shown = f"{text!r}"
        if condition.name.startswith("@"):
            shown = f"{condition.name} = {condition.text!r}"
        expression, needed = _compile(condition.text, shown, schema, aliases)
        expressions.append(expression)
        columns |= dict.fromkeys(needed)
    # As it was typed where it names no cut: a run's fingerprint goes by it.
    whole = named.written_out(text, cuts or {}) if named.names_in(text) else text
    return Selection(
        text=whole,
        names=tuple(condition.name for condition in conditions),
        expressions=tuple(expressions),
        columns=tuple(columns),
    )


def _compile(
    text: str, shown: str, schema: pa.Schema, aliases: Mapping[str, str]
) -> tuple[pc.Expression, list[str]]:
    """One condition, and the columns it needs."""
    compiler = _Compiler(shown, schema, aliases)
    try:
        expression = compiler.condition(ast.parse(text, mode="eval").body)
        # A scan of nothing finds wrong types now, with no row read.
        kind = _type_of(expression, schema)
    except (pa.ArrowException, TypeError, OverflowError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"--select {shown} does not fit the columns' types: {words}") from None
    if not pa.types.is_boolean(kind):
        raise InputError(
            f"--select {shown} gives {kind}, not true or false; compare it with something"
        )
    return expression, list(compiler.columns)


def _type_of(expression: pc.Expression, schema: pa.Schema) -> pa.DataType:
    import pyarrow.dataset as pads

    empty = pads.dataset(schema.empty_table()).to_table(columns={"x": expression})
    return empty.schema.field("x").type


class _Compiler:
    def __init__(self, shown: str, schema: pa.Schema, aliases: Mapping[str, str]) -> None:
        self.shown, self.schema, self.aliases = shown, schema, aliases
        self.columns: dict[str, None] = {}

    def condition(self, node: ast.expr) -> pc.Expression:
        """What is true or false: a flag that is kept as 0 and 1, or in words, stands for itself.

        Tables of text (CSV) know no other flags than words; what is none of them is null.
        """
        expression = self.compile(node)
        kind = self.kind(node) if isinstance(node, ast.Name) else None
        if kind is not None and pa.types.is_integer(kind):
            return expression != pa.scalar(0, kind)
        if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            word = pc.utf8_lower(expression)
            known, true = word.isin([*_TRUE, *_FALSE]), word.isin(_TRUE)
            return pc.if_else(known, true, pa.scalar(None, pa.bool_()))
        return expression

    def compile(self, node: ast.expr) -> pc.Expression:
        match node:
            case ast.BoolOp(op=ast.And(), values=[first, *rest]):
                whole = self.condition(first)
                for part in rest:
                    whole = whole & self.condition(part)
                return whole
            case ast.BoolOp(values=[first, *rest]):
                whole = self.condition(first)
                for part in rest:
                    whole = whole | self.condition(part)
                return whole
            case ast.BinOp(
                left=ast.Name() as name, op=ast.BitAnd(), right=ast.Constant(value=int() as bits)
            ) if type(bits) is int:
                return pc.bit_wise_and(self.compile(name), pa.scalar(bits, self.kind(name)))
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self.compile(left) & self.compile(right)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.compile(left) | self.compile(right)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self.operand(left), self.operand(right))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return ~self.condition(operand)
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
                    values = self.values(right.elts)
                    if self.kind(left) == pa.uint64():
                        values = pa.array(values, pa.uint64())
                    part = self.compile(left).isin(values)
                    part = ~part if isinstance(op, ast.NotIn) else part
                case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
                    part = self.compile(left).is_null(nan_is_null=True)
                    part = ~part if isinstance(op, ast.IsNot) else part
                case _ if type(op) in _COMPARISONS:
                    sides = self.side(left, right), self.side(right, left)
                    part = _COMPARISONS[type(op)](*sides)
                case _:
                    raise self.refusal(right)
            whole = part if whole is None else whole & part
            left = right
        assert whole is not None
        return whole

    def kind(self, node: ast.expr) -> pa.DataType | None:
        """The type of a column, or of its bits; None for all else."""
        match node:
            case ast.Name(id=name):
                return self.schema.field(self.column(name)).type
            case ast.BinOp(left=ast.Name() as name, op=ast.BitAnd(), right=ast.Constant()):
                return self.kind(name)
        return None

    def side(self, node: ast.expr, other: ast.expr) -> pc.Expression:
        """A side of a comparison: what is held against an unsigned id is unsigned too.

        Arrow would make both signed, and fail at the first id above 2**63 - 1.
        """
        match node:
            case ast.Constant(value=int() as number) if self.kind(other) == pa.uint64():
                return pc.scalar(pa.scalar(number, pa.uint64()))
        return self.compile(node)

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
            f"--select {self.shown}: there is no column {name!r}; the nearest is {near[0]!r}"
        )

    def refusal(self, node: ast.expr) -> InputError:
        return InputError(
            f"--select {self.shown}: {ast.unparse(node)!r} is not understood; use comparisons, "
            "and/or/not, + - * /, column names, numbers, strings, in [...], is None, COLUMN & BITS"
        )
