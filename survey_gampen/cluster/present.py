"""Who is there: the workers that a scheduler knows now."""

from __future__ import annotations

from typing import Any

from distributed import Client

#: A scheduler that says nothing for so long is asked again later [s].
_PATIENCE = 30.0


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of its workers, by address.

    ``Client.scheduler_info`` hands out a copy that the client's own housekeeping writes to, without
    any workers: whoever reads that one sees them come and go.

    Raises
    ------
    OSError
        If the scheduler does not answer.
    """
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_PATIENCE)
    found: dict[str, dict[str, Any]] = identity["workers"]
    return found
