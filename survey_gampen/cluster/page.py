"""The run's own page on Dask's dashboard, and the same numbers for Prometheus.

``/survey-gampen`` shows how far the run is and what each worker does, ``/survey-gampen/metrics``
has it in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats).
Loaded by the scheduler (``distributed.scheduler.http.routes``). What is known of the run the client
tells now and then as an event; what is known of a worker comes with its heartbeat.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from distributed.http.utils import RequestHandler

from survey_gampen.run.progress import duration

#: Topic of the client's events: a dict as in :func:`numbers`.
STATE = "survey-gampen-state"
STATES = ("waiting", "cutting", "cut", "inferring", "published", "quarantined")

Sample = tuple[str, dict[str, str], float]
_HELP = {
    "galaxies_planned": "galaxies of the run",
    "galaxies_done": "galaxies through the network",
    "galaxies_per_second": "galaxies a second since the client began",
    "partitions": "partitions of the run by state",
    "worker_galaxies_total": "galaxies through the network on a worker",
    "worker_galaxies_per_second": "galaxies a second on a worker, of late",
    "worker_job_seconds_left": "seconds until a worker's job ends",
    "worker_gpu_memory_used_bytes": "memory in use on a worker's GPU",
    "worker_gpu_memory_total_bytes": "memory of a worker's GPU",
    "worker_gpu_utilisation_ratio": "share of late time in which a worker's GPU computed",
}


def numbers(scheduler: Any) -> Iterator[Sample]:
    """All that is shown: name, labels, value."""
    events = scheduler.get_events(STATE)
    if events:
        state = events[-1][1]
        for name in ("galaxies_planned", "galaxies_done", "galaxies_per_second"):
            yield name, {}, state[name]
        for name in STATES:
            yield "partitions", {"state": name}, state["partitions"].get(name, 0)
    for worker in list(scheduler.workers.values()):
        label = {"worker": str(worker.name)}
        for key, value in (worker.metrics.get("survey_gampen") or {}).items():
            yield f"worker_{key}", label, value


def prometheus(samples: Iterable[Sample]) -> str:
    """The same in Prometheus' text format."""
    lines: dict[str, list[str]] = {}
    for name, labels, value in samples:
        inside = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels.items())
        full = f"survey_gampen_{name}"
        kind = "counter" if name.endswith("_total") else "gauge"
        head = [f"# HELP {full} {_HELP[name]}", f"# TYPE {full} {kind}"]
        place = lines.setdefault(name, head)
        place.append(f"{full}{{{inside}}} {value:g}" if inside else f"{full} {value:g}")
    return "\n".join(line for group in lines.values() for line in group) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def html(samples: Iterable[Sample]) -> str:
    """The same as a page that comes anew every few seconds."""
    run: dict[str, float] = {}
    states: dict[str, float] = {}
    workers: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        if "state" in labels:
            states[labels["state"]] = value
        elif "worker" in labels:
            workers.setdefault(labels["worker"], {})[name.removeprefix("worker_")] = value
        else:
            run[name] = value
    done, planned = run.get("galaxies_done", 0), run.get("galaxies_planned", 0)
    rate = run.get("galaxies_per_second", 0)
    left = f", {duration((planned - done) / rate)} left" if rate else ""
    rows = [_worker_row(name, facts, workers) for name, facts in sorted(workers.items())]
    return _PAGE.format(
        now=time.strftime("%H:%M:%S"),
        words=f"{done:,.0f} of {planned:,.0f} galaxies, {rate:.3g} galaxies/s{left}"
        if run
        else "the run has not told anything yet",
        progress=_bar(done, planned),
        states="".join(f"<tr><td>{k}<td>{v:,.0f}" for k, v in states.items()),
        workers="".join(rows) or "<tr><td colspan=6>none is here",
    )


def _worker_row(name: str, facts: dict[str, float], workers: dict[str, dict[str, float]]) -> str:
    rate = facts.get("galaxies_per_second", 0.0)
    most = max(w.get("galaxies_per_second", 0.0) for w in workers.values())
    memory = "none"
    if total := facts.get("gpu_memory_total_bytes"):
        used = facts.get("gpu_memory_used_bytes", 0.0)
        memory = f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB"
    use = facts.get("gpu_utilisation_ratio")
    left = facts.get("job_seconds_left")
    return (
        f"<tr><td>{escape(name)}<td>{facts.get('galaxies_total', 0):,.0f}"
        f"<td>{_bar(rate, most)} {rate:.3g}<td>{memory}<td>{'' if use is None else f'{use:.0%}'}"
        f"<td>{'' if left is None else duration(left)}"
    )


def _bar(part: float, whole: float) -> str:
    return f"<meter max={whole or 1:g} value={part:g}></meter>"


class _Page(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(html(numbers(self.server)))


class _Metrics(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(prometheus(numbers(self.server)))


routes: list[tuple[str, type[RequestHandler], dict[str, Any]]] = [
    ("survey-gampen", _Page, {}),
    ("survey-gampen/metrics", _Metrics, {}),
]

_PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>
<title>survey-gampen</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #223 }}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 60rem }}
h1 {{ font-size: 1.3rem }} h2 {{ font-size: 1rem; margin: 1.5rem 0 .3rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .15rem 1.2rem .15rem 0; text-align: left }}
meter {{ margin-right: .4rem; width: 10rem; vertical-align: middle }} small, a {{ color: #667 }}
</style>
<h1>survey-gampen</h1>
<p>{progress} {words}</p>
<h2>Partitions</h2><table>{states}</table>
<h2>Workers</h2>
<table>
<tr><th>worker<th>galaxies<th>galaxies/s<th>GPU memory<th>GPU use<th>job ends in{workers}</table>
<p><small>at {now}, comes anew every 5 s; <a href=/status>Dask's own pages</a>,
<a href=/survey-gampen/metrics>for Prometheus</a></small></p>
"""
