"""What this machine can do at best, measured in the same minutes as what is compared with it.

Figures of two machines, or of one machine in two runs, say little about a program: what its dense
matrix products and its copies reach beside it says how far it is from the hardware's limit.
Every benchmark prints a table and writes, with ``--json FILE``, what stands in it and this.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from survey_gampen.posterior.settings import has, usable_cores

#: Side of the matrices whose product is the ceiling.
CUBE = 2048
#: Shapes (m, k, n) of matrix products that are about those of the network's convolutions.
_NETWORK_SHAPES = ((6272, 3456, 256), (6272, 1728, 384))
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Best time of some repeats, after one that warms up."""
    return in_turns({"": run}, repeats)[""]


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Best time [s] of each, after one that warms up.

    Every repeat runs all of them, so that what else the machine does meets them alike.
    """
    best = dict.fromkeys(runs, math.inf)
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            wait_for_gpu()
            begun = time.perf_counter()
            run()
            wait_for_gpu()
            if repeat:
                best[name] = min(best[name], time.perf_counter() - begun)
    return best


def abreast(runs: Mapping[str, Callable[[], object]], for_seconds: float) -> dict[str, float]:
    """Mean time [s] of each, of short calls that follow each other until the time is up.

    On a machine that others use too, a core's rate of matrix products may change by a factor of
    three, for seconds or minutes. Of ratios of means that were taken together nothing of it is
    left; of best times some is, if one of two met a better moment.
    """
    spent, rounds = dict.fromkeys(runs, 0.0), 0
    for run in runs.values():
        run()
    until = time.perf_counter() + for_seconds
    while not rounds or time.perf_counter() < until:
        rounds += 1
        for name, run in runs.items():
            wait_for_gpu()
            begun = time.perf_counter()
            run()
            wait_for_gpu()
            spent[name] += time.perf_counter() - begun
    return {name: seconds / rounds for name, seconds in spent.items()}


def wait_for_gpu() -> None:
    """A GPU works on after a call has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine(device: str = "cpu") -> str:
    """What computes, in words."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    name = fields.get("model name") or platform.processor() or platform.machine()
    known = {"amx_int8": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512_vnni": "AVX-512 VNNI"}
    fast = [words for flag, words in known.items() if flag in fields.get("flags", "").split()]
    return f"{name}, {usable_cores()} cores" + (f" with {', '.join(fast)}" if fast else "")


def matrix_product(precision: str, device: str = "cpu") -> tuple[float, Callable[[], Tensor]]:
    """Operations of the dense product of :data:`CUBE`, four times that side on a GPU; and it."""
    side = CUBE * (4 if device == "cuda" else 1)
    x, weight = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in "xw")
    return 2.0 * side**3, functools.partial(F.linear, x, weight)


def matrix_rate(precision: str, device: str = "cpu", repeats: int = 8) -> float:
    """Best rate of that product [FLOP/s]."""
    flop, product = matrix_product(precision, device)
    return flop / seconds(product, repeats)


def network_rate(precision: str, device: str = "cpu", repeats: int = 8) -> float:
    """The best [FLOP/s] of matrix products of the network's own shapes, also as convolutions."""
    best = 0.0
    for m, k, n in _NETWORK_SHAPES:
        x, weight = (torch.randn(rows, k, device=device).to(_DTYPES[precision]) for rows in (m, n))
        pixels = x.view(32, m // 32, 1, k).permute(0, 3, 1, 2)  # channels last
        products: list[Callable[[], Tensor]] = [
            functools.partial(F.linear, x, weight),
            functools.partial(F.conv2d, pixels, weight[:, :, None, None]),
        ]
        best = max(best, *(2 * m * k * n / seconds(product, repeats) for product in products))
    return best


def copy_rate(device: str = "cpu", repeats: int = 8) -> float:
    """Bytes read and written a second by a copy of 256 MiB [B/s]."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return (
        2 * source.numel() * source.element_size() / seconds(lambda: target.copy_(source), repeats)
    )


def ceilings(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """The machine, and its rates at this moment: matrix products by precision, and copies."""
    torch.set_num_threads(threads or usable_cores())
    precisions = [precision for precision in _DTYPES if has(precision, device)]
    return {
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "memory_bytes": psutil.virtual_memory().total,
        "matrix_flop_per_s": {p: matrix_rate(p, device) for p in precisions},
        "copy_bytes_per_s": copy_rate(device),
    }


def told(ceiling: dict[str, Any]) -> str:
    """One line of it for above a table."""
    products = ", ".join(
        f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in ceiling["matrix_flop_per_s"].items()
    )
    return (
        f"{ceiling['machine']}; {ceiling['threads']} threads, torch {ceiling['torch']}; dense "
        f"matrix products: {products}; copies: {ceiling['copy_bytes_per_s'] / 1e9:.0f} GB/s"
    )


def write(path: Path | None, ceiling: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write both to a JSON file, if one is asked for."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"ceilings": ceiling, **figures}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings(args.device, args.threads)
    print(told(ceiling))
    write(args.json, ceiling, {})


if __name__ == "__main__":
    main()
