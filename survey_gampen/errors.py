"""What can go wrong, sorted by who must act.

The class of an error decides what the run does with it, and the exit code of the command:

========================  ==========================================  =========
class                     meaning                                     exit code
========================  ==========================================  =========
:class:`InputError`       the user must change something              2
:class:`UnreadableFile`   one partition's data is broken: quarantine  3
:class:`OutsideFault`     disk, mount, device: nobody's data          75
:class:`Interrupted`      stopped on request: run again to go on      75
========================  ==========================================  =========

Three more never reach the user: what became of a worker, for those who give out the work.

Every message is one line that says what to do. All of them travel through pickle between a
worker and the client, so they carry plain values only.
"""

from __future__ import annotations


class GampenError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class InputError(GampenError):
    """Usage, configuration or input that cannot be used."""

    exit_code = 2


class UnreadableFile(GampenError):
    """A file that exists and cannot be read: its partition is quarantined, the rest goes on."""

    exit_code = 3


class OutsideFault(GampenError):
    """A cause outside the data (disk full, mount lost, no GPU): the run stops and can go on."""

    exit_code = 75


class Interrupted(GampenError):
    """The run was asked to stop; the same command goes on."""

    exit_code = 75


class UnfitWorker(GampenError):
    """This worker can't give the same bits as the others: it must leave.

    Attributes
    ----------
    where : str
        The worker, as the crew knows it.
    """

    where = ""


class WorkerLost(GampenError):
    """The worker died under its task."""


class WorkerLeaving(GampenError):
    """Too little is left of the worker's job for this task: it was not begun."""
