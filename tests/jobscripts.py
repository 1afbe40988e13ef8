"""The script of a profile's jobs."""

from __future__ import annotations

from survey_gampen.cluster.jobs import make_job, resources
from survey_gampen.cluster.profile import Profile


def job_script(profile: Profile) -> str:
    assert profile.batch
    ask = profile.batch.ask
    text: str = make_job(profile, ask, resources(ask, cuts=True)).job_script()
    return text
