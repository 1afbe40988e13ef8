"""How fast is the engine? Side by side in one run, on one machine.

Cases: the presets ``gampen-2021`` and ``survey`` with random weights, which do not matter for
speed, and a dropout rate of 0.1; and ``shipped``, the shipped model ``survey`` with its own rates,
which drop so few elements that they are taken away from a kept output.

Methods: three loops as anybody would write them (``benchmarks/loops.py``) in float32:

- ``plain``: the whole network in every pass;
- ``dropout``: the crop is kept, ``torch.nn.Dropout`` in training mode does the rest;
- ``cached``: all that comes before the first dropout is kept, the first convolution too; in
  ``cached bf16`` under ``torch.autocast`` (which casts the weights anew in each pass);

each with the activations' channels first (NCHW) or last (NHWC), as is faster;

and ``engine``, this package, in every precision that the machine multiplies. Everything is run in
turns, the best of the repeats counts. Seconds a galaxy are what is done once plus 1000 times a
pass; what is done once is, for the engine, the look, the noise and the summary of 1000 draws.

``of dense rate`` counts the operations of the network's layers behind the first dropout, done or
saved, over seconds a galaxy, as a share of what dense matrix products reach. For it, and to compare
precisions, single passes and single products alternate for a while, and their means count.
Before it is timed, the engine's output is compared with that of a plain loop under the same masks.
On a GPU all sides run under the engine's settings: no TF32, deterministic algorithms.

    python benchmarks/engine.py [--quick] [--device cuda] [--threads 2] [--batch 32 ...]
                                [--cases survey ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceilings import abreast, ceilings, in_turns, matrix_product, network_rate, told, write
from loops import disks, expected, loops
from rich.console import Console
from rich.table import Table
from torch import Tensor

from survey_gampen.model.checkpoint import Checkpoint, load_checkpoint
from survey_gampen.model.network import Block, Gampen
from survey_gampen.model.presets import architecture
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.fidelity import activation_ranges
from survey_gampen.posterior.settings import PRECISIONS, has, usable_cores
from survey_gampen.posterior.summary import summarise
from survey_gampen.run.measure import BATCHES

PASSES = 1000
RATE = 0.1
CASES = ("gampen-2021", "survey", "shipped")
LOOPS = ("plain", "dropout", "cached", "cached bf16")
#: Largest root mean square by which outputs may differ from the plain loop's, over their scatter
#: from pass to pass.
TOLERANCES = {"fp32": 0.01, "bf16": 0.1, "int8": 0.5}
#: How loops may lay out weights and activations; which is faster depends on the layers.
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
#: Galaxies of a loop at once: more are no faster.
LOOP_BATCH = {"cpu": 16, "cuda": 256}
#: How long passes and products alternate [s].
_ABREAST = {"cpu": 20.0, "cuda": 2.0}
#: Galaxies and passes that are compared.
_COMPARED = (8, 16)


def model_of(case: str) -> Checkpoint:
    """What is timed."""
    if case == "shipped":
        return load_checkpoint("survey")
    torch.manual_seed(0)
    network = Gampen(architecture(case), RATE).eval().requires_grad_(False)
    model = Checkpoint(network, Targets((0.0, 0.0, 8.0), (1.0, 1.0, 1.0)))
    model.meta["activation_ranges"] = activation_ranges(model, disks(16, model.config.size))
    return model


def flop_a_pass(network: Gampen) -> float:
    """Multiplications and additions of the weight layers of one pass of one galaxy."""
    total = 0.0
    for block in network.blocks:
        assert isinstance(block, Block)
        positions = 1 if block.flat else block.input_shape[1] * block.input_shape[2]
        total += 2.0 * block.weight_layer.get_parameter("weight").numel() * positions
    return total


class Timed:
    """What is run in turns for one case, and what became of it, by method.

    Parameters
    ----------
    model : Checkpoint
    device : str
    threads : int
    """

    def __init__(self, model: Checkpoint, device: str, threads: int) -> None:
        self.model, self.device, self.threads = model, device, threads
        self.network = copy.deepcopy(model.network).to(device)
        self.differs: dict[str, float] = {}
        self._runs: dict[str, Callable[[], object]] = {}
        self._galaxies: dict[str, int] = {}
        self._passes: dict[str, int] = {}
        self._once: dict[str, str] = {}  # what is run for what a method does once
        self._single: dict[str, Callable[[], object]] = {}  # a pass, another one at each call

    def add_loops(self, batch: int, passes: int, layout: str) -> None:
        """The other side."""
        images = torch.from_numpy(disks(batch, self.model.config.size)).to(self.device)
        network = copy.deepcopy(self.network)
        network.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        with torch.inference_mode():
            made = loops(network, images)

        def run(one_pass: Callable[[int], Tensor], fast: bool) -> None:
            with torch.autocast(self.device, torch.bfloat16, enabled=fast):
                for k in range(passes):
                    one_pass(k)

        for name in LOOPS:
            method, _, precision = name.partition(" ")
            if not precision or has(precision, self.device):
                loop = made[method]
                passing = functools.partial(run, loop.one_pass, bool(precision))
                # What is kept is kept in float32, so it is timed once.
                before = None if precision else loop.before
                self._add(f"{name} {layout}", batch, passes, passing, before)
                self._once[f"{name} {layout}"] = f"once {method} {layout}"

    def add_engine(self, precision: str, batch: int, passes: int) -> None:
        """The engine, after a look at its output."""
        settings: dict[str, Any] = {"device": self.device, "threads": self.threads}
        make = functools.partial(Engine, self.model, seed=0, precision=precision, **settings)
        if precision not in self.differs:
            self.differs[precision] = self._difference(make, precision)
        engine = make(passes=passes, batch=batch)
        images, keys = disks(batch, self.model.config.size), np.arange(batch, dtype=np.uint64)
        look = engine.look(images)
        # What a run of 1000 passes does besides them: these are there already.
        drawn = engine.through(look)[0].repeat(1, -(-PASSES // passes), 1)[:, :PASSES]
        rest = copy.copy(engine)
        rest.passes = PASSES
        rest.through = lambda look: (drawn, look.theta)  # type: ignore[method-assign]
        name, numbers = f"engine {precision} {batch}", itertools.cycle(range(passes))
        self._add(
            *(name, batch, passes, lambda: engine.through(look)),
            lambda: summarise(rest.draws(images, keys)),
        )
        self._single[name] = lambda: engine.one_pass(look, next(numbers))

    def _add(
        self,
        name: str,
        batch: int,
        passes: int,
        run: Callable[[], object],
        once: Callable[[], object] | None,
    ) -> None:
        self._galaxies[name], self._passes[name], self._runs[name] = batch, passes, run
        if once:
            self._once[name] = f"once {name}"
            self._runs[self._once[name]] = once

    def _difference(self, make: Callable[..., Engine], precision: str) -> float:
        """Of outputs from the plain loop's, over their scatter from pass to pass."""
        n, passes = _COMPARED
        images = disks(n, self.model.config.size)
        found = make(passes=passes, batch=n).outputs(images)
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(self.device)
            wanted = expected(self.network, pixels, 0, passes)
        differs = ((found - wanted).square().mean() / wanted.var(dim=1).mean()).sqrt().item()
        if not differs < TOLERANCES[precision]:
            raise SystemExit(f"engine {precision} is beside the plain loop by {differs:.2g}")
        return differs

    def measured(self, repeats: int) -> dict[str, dict[str, float]]:
        """Seconds a galaxy by method: of a pass, of what is done once, of 1000 passes.

        For the engine also of 1000 passes when these took turns with dense products, one by one,
        and what it reached of the rate of those.
        """
        products = {
            precision: matrix_product(precision, self.device)
            for precision in ("fp32", "bf16")
            if has(precision, self.device)
        }
        with torch.inference_mode():
            best = in_turns(self._runs, repeats)
            runs = self._single | {name: product for name, (_, product) in products.items()}
            mean = abreast(runs, _ABREAST[self.device] * repeats)
        dense = {name: flop / mean[name] for name, (flop, _) in products.items()}
        flop = PASSES * flop_a_pass(self.network)
        found = {}
        for name, batch in self._galaxies.items():
            # A loop computes what it keeps one orientation at a time.
            times = 1 if name.startswith("engine") else self.network.arch.orientations
            once = times * best.get(self._once[name], 0.0) / batch
            one = best[name] / self._passes[name] / batch
            total = once + PASSES * one
            found[name] = {"pass": one, "once": once, "total": total, "batch": batch}
            if name in self._single:
                beside = once + PASSES * mean[name] / batch
                rough = not name.startswith("engine fp32")  # bytes have no dense product
                rate = dense["bf16" if rough and "bf16" in dense else "fp32"]
                found[name] |= {"total_beside": beside, "of_dense": flop / beside / rate}
        return found


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """All methods on one case: of a loop's layouts and of the engine's batches the fastest."""
    timed = Timed(model_of(case), args.device, args.threads)
    batches = args.batch or [BATCHES[args.device]]
    if not args.no_loops:
        batch = min(LOOP_BATCH[args.device], max(batches))
        for layout in LAYOUTS:
            timed.add_loops(batch, 1 if args.device == "cpu" else 16, layout)
    for precision in (p for p in reversed(PRECISIONS) if has(p, args.device)):
        for batch in batches:
            timed.add_engine(precision, batch, 16)
    found = timed.measured(1 if args.quick else args.repeats)
    methods: dict[str, dict[str, Any]] = {}
    for name, one in found.items():
        method, _, variant = name.rpartition(" ")
        if method not in methods or one["total"] < methods[method]["total"]:
            methods[method] = one | {"variant": variant}
    flop = flop_a_pass(timed.network)
    return {"flop_a_pass": flop, "differs": timed.differs, "methods": methods, "all": found}


def show(results: dict[str, Any]) -> None:
    """Print a table."""
    table = Table("case", "method", "at its best", "s a galaxy", "of it once", "ms a pass")
    for head in ("x plain", "of dense rate", "differs"):
        table.add_column(head)
    for case, result in results.items():
        plain = result["methods"].get("plain")
        for name, one in result["methods"].items():
            differs = result["differs"].get(name.removeprefix("engine "))
            table.add_row(
                *(case, name, one["variant"], f"{one['total']:.3f}", f"{one['once']:.3f}"),
                f"{1e3 * one['pass']:.3f}",
                f"{plain['total'] / one['total']:.1f}" if plain else "",
                f"{one['of_dense']:.0%}" if "of_dense" in one else "",
                f"{differs:.1e}" if differs else "",
            )
        table.add_section()
    Console(width=120).print(table)


def ratios(results: dict[str, Any], dense: str) -> dict[str, Any]:
    """What is wanted of the engine: by name the ratio of each case, and the least.

    `dense` is the precision that is compared with matrix products.
    """
    over = f"engine {dense} over the rate of {dense} matrix products"
    found: dict[str, Any] = {over: {"wanted": 1.0 if dense == "bf16" else 0.9}}
    for case, result in results.items():
        methods = result["methods"]
        total = {name: one["total"] for name, one in methods.items()}
        found[over][case] = methods[f"engine {dense}"]["of_dense"]
        if case == "gampen-2021" and "plain" in total:
            best = min(seconds for name, seconds in total.items() if name.startswith("engine"))
            wanted = {"wanted": 40.0} if dense == "bf16" else {}
            found["engine at its best over the plain loop"] = wanted | {case: total["plain"] / best}
        if "engine int8" in total and dense == "bf16":
            ratio = found.setdefault("engine int8 over engine bf16", {"wanted": 1.7})
            bf16, int8 = (methods[f"engine {p}"]["total_beside"] for p in ("bf16", "int8"))
            ratio[case] = bf16 / int8
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one repeat, rougher figures")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--batch", type=int, nargs="+", help="of the engine; the best counts")
    parser.add_argument("--no-loops", action="store_true", help="the engine alone")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()

    ceiling = ceilings(args.device, args.threads)
    rates = ceiling["matrix_flop_per_s"]
    results = {case: measure(case, args) for case in args.cases}
    own = {precision: network_rate(precision, args.device) for precision in rates}

    print(told(ceiling))
    print(
        "matrix products of the network's own shapes: "
        + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in own.items())
    )
    show(results)
    found = ratios(results, "bf16" if "bf16" in rates else "fp32")
    for name, ratio in found.items():
        wanted = ratio.get("wanted")
        cases = {case: value for case, value in ratio.items() if case != "wanted"}
        said = ", ".join(f"{value:.2f} ({case})" for case, value in cases.items())
        if wanted:
            kept = "reached" if min(cases.values()) >= wanted else "missed"
            said += f"; wanted: {wanted:g} or more; {kept}"
        print(f"{name}: {said}")
    write(
        args.json,
        ceiling,
        {"network_flop_per_s": own, "passes": PASSES, "ratios": found, "cases": results},
    )


if __name__ == "__main__":
    main()
