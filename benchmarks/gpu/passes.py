"""Where does a pass's time go on a GPU, and what would graphs or a compiler give?

``profile`` lists the kernels of a pass by their time, and tells for what share of the passes' time
no kernel runs. The others are experiments outside the engine, timed in turns with it, their output
compared with its own:

- ``graph``: a pass is captured as a CUDA graph for each orientation, and replayed;
- ``compile``: ``torch.compile`` of the blocks;
- ``tuned``: cuDNN tries its algorithms and takes the fastest, reproducible or not.

    python benchmarks/gpu/passes.py profile [--case survey] [--precision bf16] [--batch 256]
                                            [--device cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ceilings import ceilings, in_turns, seconds, told, write
from engine import CASES, TOLERANCES, model_of
from loops import disks

from survey_gampen.posterior.engine import Engine, Look

#: Kernels that are listed.
SHOWN = 15


def profiled(engine: Engine, look: Look) -> dict[str, Any]:
    """Kernels (on a CPU: operators) of the passes, and how long none of them ran."""
    on_gpu = engine.device.type == "cuda"
    wall = seconds(lambda: engine.through(look), 3)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        engine.through(look)
        if on_gpu:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    time: dict[str, float] = {}
    calls: dict[str, int] = {}
    spans = []
    for event in profiler.events() or ():
        if event.device_type == kind:
            own = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
            time[event.name] = time.get(event.name, 0.0) + own
            calls[event.name] = calls.get(event.name, 0) + 1
            spans.append((event.time_range.start, event.time_range.end))
    busy = union(spans)
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    kernels = [
        {"name": name, "us_a_pass": time[name] / engine.passes, "calls": calls[name]}
        for name in sorted(time, key=lambda name: -time[name])
    ]
    return {
        "ms_a_pass": 1e3 * wall / engine.passes,
        "kernels_a_pass": sum(calls.values()) / engine.passes,
        "idle": 1 - busy / (1e6 * wall),
        "idle_while_profiled": 1 - busy / whole,
        "kernels": kernels[:SHOWN],
    }


def union(spans: list[tuple[float, float]]) -> float:
    """Length of what intervals cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def captured(engine: Engine, look: Look) -> Callable[[], Tensor]:
    """Passes that replay graphs, one an orientation."""
    # The engine's masks, but of one pass only, which is the one that is copied there.
    masks = copy.copy(engine.masks)
    masks._packed = engine.masks._packed[:1].clone()
    pool, graphs = None, []
    for seen, added in zip(look.seen, look.added, strict=True):

        def one(seen: Any = seen, added: Tensor = added) -> Tensor:
            return engine.tail.masked(seen, masks.unpack(0, engine.mask_dtype)) + added

        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):  # libraries set themselves up before
            one()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = one()
        pool = graph.pool()
        graphs.append((graph, output))
    outputs = engine.through(look)[0].clone()

    def passes() -> Tensor:
        for k in range(engine.passes):
            graph, output = graphs[k % len(graphs)]
            masks._packed.copy_(engine.masks._packed[k : k + 1])
            graph.replay()
            outputs[:, k] = output
        return outputs

    return passes


def compiled(engine: Engine, look: Look) -> Callable[[], Tensor]:
    """Passes of an engine whose blocks are compiled."""
    other = copy.copy(engine)
    other.tail = copy.copy(engine.tail)
    other.tail.masked = torch.compile(engine.tail.masked)  # type: ignore[method-assign]
    return lambda: other.through(look)[0]


def tuned(engine: Engine, look: Look) -> Callable[[], Tensor]:
    """Passes with cuDNN's fastest algorithms."""

    def passes() -> Tensor:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=False
        ):
            return engine.through(look)[0]

    return passes


EXPERIMENTS = {"graph": captured, "compile": compiled, "tuned": tuned}


def tried(name: str, engine: Engine, look: Look) -> dict[str, Any]:
    """Speed and largest difference of an experiment."""
    with torch.inference_mode():
        passes = EXPERIMENTS[name](engine, look)
        wanted = engine.through(look)[0].clone()
        found = passes()
        apart = (found - wanted).abs()
        scatter = wanted.std(dim=1).mean()
        best = in_turns({"engine": lambda: engine.through(look), name: passes}, 5)
    differs = (apart.square().mean().sqrt() / scatter).item()
    return {
        "ms_a_pass": {way: 1e3 * one / engine.passes for way, one in best.items()},
        "faster": best["engine"] / best[name],
        "largest_difference": apart.max().item(),
        "differs": differs,
        "agrees": differs < TOLERANCES[engine.settings.precision],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("profile", *EXPERIMENTS))
    parser.add_argument("--case", choices=CASES, default="survey")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--passes", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings(args.device)
    model = model_of(args.case)
    engine = Engine(
        model,
        passes=args.passes,
        seed=0,
        precision=args.precision,
        batch=args.batch,
        device=args.device,
        threads=ceiling["threads"],
    )
    look = engine.look(disks(args.batch, model.config.size))
    print(told(ceiling))
    print(f"{args.case}, {args.precision}, {args.batch} galaxies at once")
    if args.what == "profile":
        figures = profiled(engine, look)
        table = Table("kernel", "us a pass", "calls a pass")
        for kernel in figures["kernels"]:
            calls = kernel["calls"] / args.passes
            table.add_row(kernel["name"][:80], f"{kernel['us_a_pass']:.1f}", f"{calls:.2f}")
        Console(width=120).print(table)
        print(
            f"{figures['ms_a_pass']:.3f} ms and {figures['kernels_a_pass']:.0f} kernels a pass; "
            f"none runs for {figures['idle']:.0%} of the time, and for "
            f"{figures['idle_while_profiled']:.0%} while profiled"
        )
    else:
        figures = tried(args.what, engine, look)
        times = ", ".join(f"{way} {ms:.3f} ms a pass" for way, ms in figures["ms_a_pass"].items())
        print(
            f"{times}: {figures['faster']:.2f} times as fast; largest difference "
            f"{figures['largest_difference']:.2g}, {figures['differs']:.2g} of the scatter"
        )
        if not figures["agrees"]:
            print("the outputs do NOT agree: the speed says nothing")
    settings = {"case": args.case, "precision": args.precision, "batch": args.batch}
    write(args.json, ceiling, settings | figures)


if __name__ == "__main__":
    main()
