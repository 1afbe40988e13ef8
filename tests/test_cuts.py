"""Named cuts as words: how a selection is split, what a name stands for, which slips are named."""

from __future__ import annotations

import pytest

from survey_gampen.cuts import Cut, names_in, split, written_out
from survey_gampen.errors import InputError

CUTS = {
    "bright": "mag < 20",
    "near": "z > 0 and\n  z < 0.25",
    "quiet": "not (noisy or\n hot)",
    "paper": "@near and @quiet and field == '@bright and'",
    "whole": "@paper and @bright",
}


def test_a_selection_is_split_where_and_joins_the_whole() -> None:
    found = split("(mag < 20 and z < 1) and (a < 1 or b > 2 and c < 3) and not (d and e)", {})
    assert [cut.name for cut in found] == [
        *("mag < 20", "z < 1", "a < 1 or b > 2 and c < 3", "not (d and e)")
    ]
    assert all(cut.name == cut.text for cut in found)


def test_a_named_cut_counts_once_unless_it_names_others() -> None:
    assert split("@near and mag < 21", CUTS) == [
        Cut("@near", "z > 0 and z < 0.25"),
        Cut("mag < 21", "mag < 21"),
    ]
    assert split("@whole", CUTS) == [
        Cut("@near", "z > 0 and z < 0.25"),
        Cut("@quiet", "not (noisy or hot)"),
        Cut("field == '@bright and'", "field == '@bright and'"),
        Cut("@bright", "mag < 20"),
    ]


def test_a_cut_that_is_asked_for_twice_is_applied_once() -> None:
    names = [cut.name for cut in split("@bright and @whole and @bright and z < 1", CUTS)]
    assert names == ["@bright", "@near", "@quiet", "field == '@bright and'", "z < 1"]


def test_names_within_other_words() -> None:
    found = split("not @near or (@bright and z is None)", CUTS)
    assert found == [
        Cut(
            "not @near or (@bright and z is None)",
            "not (z > 0 and z < 0.25) or ((mag < 20) and z is None)",
        )
    ]


def test_written_out_leaves_texts_alone() -> None:
    text = "name in ['@bright', \"it's @near\", 'a\\'@quiet'] and @bright"
    assert names_in(text) == ["bright"]
    assert written_out(text, CUTS) == text.replace("and @bright", "and (mag < 20)")
    assert written_out("mag < 20", {}) == "mag < 20"


@pytest.mark.parametrize(
    ("text", "cuts", "says"),
    [
        ("@brigth", CUTS, "no cut @brigth; the nearest is @bright, of @bright, @near, @quiet"),
        ("mag < 3 or @papr", CUTS, "no cut @papr; the nearest is @paper"),
        ("@bright", {}, "no cut @bright; the survey profile names none, write the expression"),
        ("@a", {"a": "@b and x", "b": "y or @a"}, "cut @b: the cut @a names itself"),
        ("@a", {"a": "@a"}, "cut @a: the cut @a names itself"),
        ("@a", {"a": "x <"}, "cut @a 'x <' is not an expression"),
        ("@a", {"a": "x) or (y"}, "is not an expression"),
        ("@bright @near", CUTS, "--select '@bright @near' is not an expression"),
        ("@bright and", CUTS, "--select '@bright and' is not an expression"),
        ("@ bright", CUTS, "is not an expression"),
        ("", CUTS, "is not an expression"),
    ],
)
def test_a_slip_is_named(text: str, cuts: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        split(text, cuts)
    assert says in str(caught.value)
    assert "__cut__" not in str(caught.value)
    assert "\n" not in str(caught.value)
