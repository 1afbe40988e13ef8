"""Which bands a run measures: command line, survey profile and model have to agree."""

from __future__ import annotations

from dataclasses import replace

from survey_gampen.config import Settings, own_band
from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.survey import Survey


def with_bands(settings: Settings, survey: Survey, model: Checkpoint) -> Settings:
    """The settings with the bands that the model takes.

    A model of one channel takes whatever band is asked for; one of several knows which they are.

    Raises
    ------
    InputError
        If others were asked for, the survey lacks one, or there is no band at all.
    """
    if model.config.channels == 1:
        if settings.channels:
            raise InputError(
                f"model {settings.model} takes one band and not {', '.join(settings.channels)}:"
                " give one of them to --band, or a --model that was trained on them together"
            )
        return replace(settings, band=settings.band or own_band(survey))
    takes = model.bands
    asked = settings.channels or tuple(filter(None, [settings.band]))
    if asked not in ((), takes[:1], takes):
        raise InputError(
            f"model {settings.model} was trained on {', '.join(takes)} together and measures"
            f" {takes[0]}, not {', '.join(asked)}: leave --band out, or give --band"
            f" {','.join(takes)}"
        )
    missing = [band for band in takes if survey.bands and band not in survey.bands]
    if missing:
        raise InputError(
            f"survey {survey.name!r} has no band {', '.join(missing)}, and model {settings.model}"
            f" was trained on {', '.join(takes)}: choose another --survey or --model"
        )
    return replace(settings, band=takes[0], channels=takes)
