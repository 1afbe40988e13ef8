"""What a site has written into dask's own ``jobqueue.yaml``, and what a job takes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask

#: Keys of dask's jobqueue.yaml that are used, with the profile's keys that go before each.
_USED = {
    "queue": ("queue",),
    "account": ("account",),
    "project": ("account",),
    "walltime": ("walltime",),
    "processes": ("processes",),
    "cores": ("threads",),
    "memory": ("memory",),
    "job-cpu": ("threads",),
    "job-mem": ("memory",),
    "ncpus": ("threads",),
    "mem": ("memory",),
    # One text for all three: who sets one of them does not mean the site's any more.
    "resource-spec": ("resource_spec", "threads", "memory", "gpus"),
    "python": ("python",),
    "interface": ("interface",),
    "local-directory": ("scratch",),
    "memory-per-core-property-name": (),
    "lsf-units": (),
    "submit-command-extra": (),
    "cancel-command-extra": (),
    "shebang": (),
    "job-extra-directives": (),
    "job-directives-skip": (),
    "job-script-prologue": (),
}
#: Older names that dask-jobqueue still takes where the newer one is not set.
_RENAMED = {
    "env-extra": "job-script-prologue",
    "job-extra": "job-extra-directives",
    "header-skip": "job-directives-skip",
}


def site_settings(kind: str) -> dict[str, Any]:
    """Return what the site has set in dask's own configuration, by the names of today.

    Left out are what dask-jobqueue has set itself, and keys that no job of ours uses.
    """
    from survey_gampen.cluster.jobs import shipped  # slow to import, and for few

    defaults = shipped(kind)
    found = {}
    for spelled, value in dask.config.get(f"jobqueue.{kind}", {}).items():
        key = spelled.replace("_", "-")  # dask takes both; its environment variables have _
        if value and value != defaults.get(key):
            found[key] = value
    renamed = _RENAMED if "project" in defaults else _RENAMED | {"project": "account"}
    for old, new in renamed.items():
        if old in found:
            found.setdefault(new, found[old])
    for key in _RENAMED.values():
        if isinstance(found.get(key), str):  # of an environment variable
            found[key] = [found[key]]
    return {key: value for key, value in found.items() if key in _USED and key in defaults}


def taken(site: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job takes of the site's keys: those the profile does not set itself."""
    # No GPUs are nothing asked for, and profiles say so in a line of their own.
    own = {key for key, value in given.items() if value not in ("auto", None, 0)}
    return {key: value for key, value in site.items() if own.isdisjoint(_USED[key])}
