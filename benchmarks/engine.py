"""How fast is the engine? Side by side in one run, on one machine.

For each preset: seconds a galaxy for 1000 passes by

- ``plain``: a loop that runs the whole network in float32, dropout by ``torch.nn.functional``;
- ``cached``: the same, with all that comes before the first dropout computed once an orientation;
- ``engine``: this package, in float32 and, where the machine multiplies it, bfloat16;

and the rate of the machine's dense matrix products in the same minutes, which nothing that
multiplies the same numbers can beat. All are timed over fewer passes than 1000: fixed part and
passes apart, then put together. Weights are random; speed does not depend on them.

    python benchmarks/engine.py [--quick] [--device cuda] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.orientations import oriented
from survey_gampen.model.presets import architecture
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.settings import PRECISIONS, EngineSettings, has, usable_cores
from survey_gampen.posterior.sizing import measure_speed
from survey_gampen.run.measure import BATCHES

PASSES = 1000
RATE = 0.1


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Best time of some repeats, after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        wait_for_gpu()
        begun = time.perf_counter()
        run()
        wait_for_gpu()
        times.append(time.perf_counter() - begun)
    return min(times)


def wait_for_gpu() -> None:
    """A GPU works on after a call has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(dtype: torch.dtype, repeats: int, device: str) -> float:
    """Dense matrix products [FLOP/s]: the best that torch gives on shapes like the network's.

    Asked for as matrix product and as 1 x 1 convolution, which are different libraries.
    """
    best = 0.0
    shapes = [(2048, 2048, 2048), (6272, 3456, 256), (6272, 1728, 384)]
    if device == "cuda":  # fills it
        shapes.append((8192, 8192, 8192))
    for m, k, n in shapes:
        x, weight = (torch.randn(rows, k, device=device).to(dtype) for rows in (m, n))
        pixels = x.view(32, m // 32, 1, k).permute(0, 3, 1, 2)
        products: list[Callable[[], Tensor]] = [
            lambda x=x, w=weight: F.linear(x, w),  # type: ignore[misc]
            lambda x=pixels, w=weight: F.conv2d(x, w[:, :, None, None]),  # type: ignore[misc]
        ]
        for product in products:
            best = max(best, 2 * m * k * n / seconds(product, repeats))
    return best


def tail_with_dropout(network: Gampen, features: Tensor, theta: Tensor) -> Tensor:
    """One pass as anybody would write it."""
    x = features
    for i, block in enumerate(network.blocks):
        first_flat = block.flat and not network.blocks[i - 1].flat
        if first_flat:
            x = x.flatten(1)
        x = F.dropout(x, RATE, training=True)
        if first_flat and network.arch.head_sees_crop:
            x = torch.cat([x, theta.flatten(1)], dim=1)
        x = block.after(block.weight_layer(x))
    return x


def flop_a_pass(network: Gampen) -> float:
    """Multiplications and additions of the weight layers of one pass of one galaxy."""
    total = 0.0
    for block in network.blocks:
        weight = block.weight_layer.weight
        positions = 1 if block.flat else block.input_shape[1] * block.input_shape[2]
        total += 2.0 * weight.numel() * positions
    return total


def plain_loop(network: Gampen, batch: int, passes: int, repeats: int) -> dict[str, float]:
    """Seconds a galaxy of the two loops in float32, for 1000 passes."""
    device = next(network.parameters()).device
    images = torch.randn(batch, network.arch.size, network.arch.size, device=device)
    count = network.arch.orientations

    def before(k: int) -> tuple[Tensor, Tensor]:
        prefix: tuple[Tensor, Tensor] = network.prefix(oriented(images, k, count))
        return prefix

    kept = [before(k) for k in range(count)]

    def whole() -> None:
        for k in range(passes):
            tail_with_dropout(network, *before(k))

    def cached() -> None:
        for k in range(passes):
            tail_with_dropout(network, *kept[k % count])

    prefix = count * seconds(lambda: before(1), repeats)
    return {
        "plain": seconds(whole, repeats) / passes / batch * PASSES,
        "cached": (prefix + seconds(cached, repeats) / passes * PASSES) / batch,
    }


def measure(preset: str, device: str, threads: int, quick: bool) -> dict[str, Any]:
    """All methods on one preset."""
    torch.manual_seed(0)
    network = Gampen(architecture(preset), RATE).eval().requires_grad_(False)
    checkpoint = Checkpoint(network, Targets((0.0, 0.0, 8.0), (1.0, 1.0, 1.0)))
    checkpoint.meta["activation_ranges"] = [1.0] * 4  # bytes multiply as fast whatever they mean
    repeats, passes = (1, 2) if quick else (3, 5)
    on_device = copy.deepcopy(network).to(device)
    with torch.inference_mode():
        plain_batch = 16 if device == "cpu" else 256
        result: dict[str, Any] = dict(plain_loop(on_device, plain_batch, passes, repeats))
    result["flop_a_pass"] = flop_a_pass(network)
    for precision in (p for p in reversed(PRECISIONS) if has(p, device)):
        batch = 32 if quick else BATCHES[device]
        settings = EngineSettings(device, precision, batch, threads)
        # The middle one: the least of some differences of two times is the luckiest, not the best.
        speed = sorted(
            (measure_speed(checkpoint, settings, 4 * passes) for _ in range(repeats)),
            key=lambda speed: speed.per_pass,
        )[repeats // 2]
        result[f"engine {precision}"] = speed.seconds(PASSES)
        result[f"pass {precision}"] = speed.per_pass
        result[f"batch {precision}"] = settings.batch
    return result


def machine(device: str) -> str:
    """What computes, in words."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute, and rougher figures")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--presets", nargs="+", default=["gampen-2021", "survey"])
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    repeats = 3 if args.quick else 8
    rates = {"fp32": matrix_rate(torch.float32, repeats, args.device)}
    if has("bf16", args.device):
        rates["bf16"] = matrix_rate(torch.bfloat16, repeats, args.device)
    results = {
        preset: measure(preset, args.device, args.threads, args.quick) for preset in args.presets
    }

    console = Console()
    console.print(
        f"{machine(args.device)}, {args.threads} threads, torch "
        f"{torch.__version__}; dense products: "
        + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    )
    table = Table("preset", "method", "s a galaxy", "ms a pass", "x plain", "of dense rate")
    for preset, result in results.items():
        for method in ("plain", "cached", "engine fp32", "engine bf16", "engine int8"):
            if method not in result:
                continue
            precision = method.removeprefix("engine ")
            per_pass = result.get(f"pass {precision}")
            # There is no dense product of bytes to compare with: of bfloat16's instead.
            rate = rates.get(precision, rates.get("bf16", rates["fp32"]))
            fraction = f"{result['flop_a_pass'] / per_pass / rate:.0%}" if per_pass else ""
            table.add_row(
                preset,
                method,
                f"{result[method]:.2f}",
                f"{1e3 * per_pass:.2f}" if per_pass else "",
                f"{result['plain'] / result[method]:.1f}",
                fraction,
            )
    console.print(table)
    if args.json:
        record = {
            "machine": machine(args.device),
            "threads": args.threads,
            "torch": torch.__version__,
            "rates": rates,
        } | results
        with open(args.json, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
