"""The figures of all epochs, where other programs read them: a table and TensorBoard's curves.

What an epoch was is known from the state of the training. These two are made from it, so that a
training that goes on has no gap in them and no epoch twice, wherever it was stopped:
``history.parquet`` is replaced after each epoch, and the events under ``tensorboard/`` are written
anew when a training begins, and go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from survey_gampen.commit import replace
from survey_gampen.outside import outside_faults

#: What is no curve: the place on the axis, and the time of the day.
AXIS = ("epoch", "ended")
_UNITS = {"seconds": "s", "images_per_second": "1/s", "sigma_r_e": "arcsec"}


class History:
    """``history.parquet`` and ``tensorboard/`` of one training; a context manager.

    The table has a row an epoch: ``epoch``; ``training_loss``, the mean over its steps;
    ``learning_rate`` of its last step (the crop's is smaller by the recipe's factor); ``seconds``
    of its steps and ``images_per_second``, both without the validation; ``ended``, UTC; and the
    figures of :func:`survey_gampen.training.validation.figures`. TensorBoard shows the same, by
    the epoch.

    Parameters
    ----------
    out : Path
        Folder of the training.
    staging : Path
        Where files are made before they are published.
    """

    def __init__(self, out: Path, staging: Path) -> None:
        self._out, self._staging = out, staging
        self._events: EventsWriter | None = None

    def __enter__(self) -> History:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._events is not None:
            # Closing writes what a full disk did not take before.
            with outside_faults(self._out / "tensorboard"):
                self._events.close()

    def write(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Write what is new in the figures of all epochs; the first call writes all of them.

        Raises
        ------
        OutsideFault
            When the disk is full or the mount is gone.
        """
        # The table first: who has lost the right to train here is stopped by it.
        write = partial(pq.write_table, _table(epochs))
        replace(self._out / "history.parquet", write, self._staging)
        folder = self._out / "tensorboard"
        with outside_faults(folder):
            new = epochs[-1:]
            if self._events is None:
                self._events, new = _begun_anew(folder), epochs
            for epoch in new:
                self._events.write_event(_event(epoch))
            self._events.flush()


def _table(epochs: Sequence[Mapping[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist([dict(epoch) for epoch in epochs])
    when = pa.array([round(epoch["ended"] * 1e6) for epoch in epochs], pa.timestamp("us", "UTC"))
    table = table.set_column(table.column_names.index("ended"), "ended", when)
    fields = [
        f.with_metadata({"unit": _UNITS[f.name]} if f.name in _UNITS else {}) for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _begun_anew(folder: Path) -> EventsWriter:
    """A file of events in the place of all that were there.

    It is written at once and in this thread, so that an error of the disk is heard; the writer
    that tensorboardX recommends has a thread of its own, and loses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    events = EventsWriter(str(folder / "events"))
    # A TensorBoard that is watching forgets what it has shown.
    events.write_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
    return events


def _event(epoch: Mapping[str, Any]) -> Event:
    event = Event(step=epoch["epoch"], wall_time=epoch["ended"])
    for name, value in epoch.items():
        if name not in AXIS:
            event.summary.value.extend(scalar(name, value).value)
    return event
