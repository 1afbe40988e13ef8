"""Named cuts: expressions of ``--select`` that a survey profile gives a name, used as ``@name``.

All of this is about words: what the expressions do to rows stands in
:mod:`survey_gampen.catalog.select`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from survey_gampen import tomlfile
from survey_gampen.errors import InputError

#: A text in quotes, which is left alone, or @name.
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|@(?P<name>\w+)""")
#: What stands for ``@`` while an expression is parsed: Python would multiply matrices.
_MARK = "__cut__"


@dataclass(frozen=True)
class Cut:
    """One condition that a row must meet, counted by itself.

    Attributes
    ----------
    name : str
        What to call it: ``@name``, or the words that were typed.
    text : str
        The expression, without names of cuts.
    """

    name: str
    text: str


def split(text: str, cuts: Mapping[str, str], where: str = "--select") -> list[Cut]:
    """The conditions of a selection, in the order in which they are applied.

    A selection is split where ``and`` joins the whole of it. A named cut is one condition, unless
    it names others: then it is split in the same way.

    Parameters
    ----------
    text : str
        For example ``"@secure_redshift and mag_g < 20"``.
    cuts : mapping
        Name to expression.
    where : str
        What to call the text in an error.

    Raises
    ------
    InputError
        When the text is no expression, or names a cut that is not there or that names itself.
    """
    written_out(text, cuts, where)  # names that can't be, and circles
    return list(dict.fromkeys(_split(text, cuts, where)))


def _split(text: str, cuts: Mapping[str, str], where: str) -> Iterator[Cut]:
    marked = _replace(text, lambda name: _MARK + name)
    for node in _joined_by_and(_tree(marked, text, where)):
        if isinstance(node, ast.Name) and node.id.startswith(_MARK):
            name = node.id.removeprefix(_MARK)
            if names_in(cuts[name]):
                yield from _split(cuts[name], cuts, f"cut @{name}")
            else:
                yield Cut(f"@{name}", _one_line(cuts[name]))
        else:
            words = str(ast.get_source_segment(marked, node)).replace(_MARK, "@")
            yield Cut(words, written_out(words, cuts, where))


def written_out(
    text: str, cuts: Mapping[str, str], where: str = "--select", within: tuple[str, ...] = ()
) -> str:
    """An expression with each ``@name`` replaced by what it stands for, in parentheses.

    Raises
    ------
    InputError
        When it, or a cut that it names, is no expression or names what is not there or itself.
    """

    def meaning(name: str) -> str:
        if name in within:
            raise InputError(f"{where}: the cut @{name} names itself; write out what it stands for")
        if name not in cuts:
            raise InputError(f"{where}: there is no cut @{name}; {_known(name, cuts)}")
        return f"({written_out(cuts[name], cuts, f'cut @{name}', (*within, name))})"

    _tree(_replace(text, lambda name: _MARK + name), text, where)
    return _replace(text, meaning)


def _known(name: str, cuts: Mapping[str, str]) -> str:
    if not cuts:
        return "the survey profile names none, write the expression itself"
    listed = ", ".join(f"@{cut}" for cut in cuts)
    return f"the nearest is @{tomlfile.nearest(name, cuts)}, of {listed}"


def names_in(text: str) -> list[str]:
    """The cuts that an expression names itself."""
    return [match["name"] for match in _TOKEN.finditer(text) if match["name"]]


def _replace(text: str, meaning: Callable[[str], str]) -> str:
    """The text on one line, with another word for each ``@name``."""

    def word(match: re.Match[str]) -> str:
        return meaning(match["name"]) if match["name"] else match[0]

    return _TOKEN.sub(word, _one_line(text))


def _one_line(text: str) -> str:
    """Line breaks, welcome in a profile, would end a Python expression."""
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _tree(marked: str, text: str, where: str) -> ast.expr:
    try:
        return ast.parse(marked, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = " ".join(str(error).split()).replace(_MARK, "@")
        raise InputError(f"{where} {_one_line(text)!r} is not an expression: {said}") from None


def _joined_by_and(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            yield from _joined_by_and(part)
    else:
        yield node
