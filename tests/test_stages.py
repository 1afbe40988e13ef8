"""Where the time of a task goes."""

from __future__ import annotations

import time

import pytest

from survey_gampen.stages import Stages


def test_time_is_added_up_by_stage_and_the_rest_has_a_name() -> None:
    stages = Stages()
    for _ in range(2):
        with stages("reading"):
            time.sleep(0.02)
    time.sleep(0.02)
    found = stages.report(rest="publishing")
    assert list(found) == ["reading", "publishing"]
    assert 0.04 <= found["reading"] < 2
    assert 0.02 <= found["publishing"] < 2


def test_only_the_getting_of_items_counts() -> None:
    def slow() -> object:
        for item in "ab":
            time.sleep(0.02)
            yield item

    stages = Stages()
    for _ in stages.each("reading", slow()):
        time.sleep(0.1)
    assert 0.04 <= stages.seconds["reading"] < 0.2


def test_a_stage_that_fails_counts_too() -> None:
    stages = Stages()
    with pytest.raises(ValueError, match="broken"), stages("reading"):
        raise ValueError("broken")
    assert "reading" in stages.seconds
