"""The verbs that make models: simulate, labels, train, calibrate, widths, evaluate."""

from __future__ import annotations

import argparse
from pathlib import Path

from survey_gampen.config import PRECISIONS

Verbs = argparse._SubParsersAction
#: Options of `train` and `calibrate` that stand for keys of the recipe.
_CHANGES = ("preset", "epochs", "morphologies", "learning_rate", "seed")


def add_verbs(verbs: Verbs) -> None:
    """Add them to the parser of all verbs."""
    _add_simulate(verbs)
    _add_labels(verbs)
    _add_train(verbs)
    _add_calibrate(verbs)
    _add_widths(verbs)
    _add_evaluate(verbs)


def _add_simulate(verbs: Verbs) -> None:
    simulate = verbs.add_parser(
        "simulate",
        help="galaxies with known truth (needs GalSim)",
        description="Simulated galaxies with known truth. The population's noise is white unless "
        "its key `correlation` says otherwise. --sky measures noise and its correlation on the "
        "empty pixels of real images instead (those without a mask plane that says otherwise; "
        "without a DETECTED plane those away from sources) and draws Gaussian fields with them: no "
        "pixel is copied, none is filled in, and sky_sigma in the truth is what was measured. "
        "--real-galaxies takes the light of galaxies seen by HST, enlarged to the population's "
        "radii as far as HST's PSF allows; their bt is that of a fit of bulge and disk, their r_e "
        "holds half the light of the catalogue's stamp.",
    )
    add = simulate.add_argument
    add(
        "population",
        metavar="POPULATION",
        help="hsc-wide, paper-2021 or a TOML file",
    )
    add("--n", type=_positive, required=True, metavar="N", help="galaxies")
    add("--out", type=Path, required=True, metavar="DIR", help="where they go")
    add("--seed", type=int, default=0, metavar="N", help="galaxy i of a seed is always the same")
    add(
        "--bands",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="B,...",
        help="bands of a galaxy, such as g,r,i: that of the truth and others of the population",
    )
    add("--psf", type=Path, nargs="+", default=[], metavar="FITS", help="real PSFs to mix in")
    add("--sky", type=Path, nargs="+", default=[], metavar="FITS", help="images with empty sky")
    add("--real-galaxies", type=Path, metavar="CATALOG", help="GalSim's catalogue, or its folder")
    add("--cluster", default="local", metavar="NAME|FILE", help="cluster profile (default local)")
    add("--workers", type=_positive, metavar="N", help="where the profile says auto: one a core")
    form = simulate.add_mutually_exclusive_group()
    form.add_argument("--parts", action="store_true", help="parts without noise, for training")
    form.add_argument("--as-tiles", action="store_true", help="coadd tiles in HSC layout")
    add("--per-tile", type=_positive, default=49, metavar="N", help="galaxies a tile (default 49)")
    simulate.set_defaults(call=_simulate)


def _simulate(args: argparse.Namespace) -> int:
    from survey_gampen.simulation import simulate, tiles

    where = (args.population, args.n, args.out)
    common = {
        "seed": args.seed,
        "psfs": tuple(args.psf),
        "sky": tuple(args.sky),
        "real_galaxies": args.real_galaxies,
        "bands": args.bands,
        "cluster": args.cluster,
        "workers": args.workers,
    }
    if args.as_tiles:
        return tiles.main(*where, per_tile=args.per_tile, **common)
    return simulate.main(*where, parts=args.parts, **common)


def _add_labels(verbs: Verbs) -> None:
    labels = verbs.add_parser("labels", help="published measurements as labels for training")
    sources = labels.add_subparsers(metavar="SOURCE", required=True)
    simard = sources.add_parser(
        "simard2011",
        help="bulge and disk fits of Simard et al. (2011)",
        description="Cross-match a catalogue with table 1 of Simard et al. 2011 (VizieR "
        "J/ApJS/196/11) on the sky, and write B/T, R_e and flux in g of the rows that pass all "
        "cuts; prints how many rows each cut dropped.",
    )
    add = simard.add_argument
    add("file", type=Path, metavar="FILE", help="table 1 as FITS, VOTable, CSV or Parquet")
    add("--catalog", type=Path, required=True, metavar="C", help="what `run` takes")
    add("--out", type=Path, required=True, metavar="LABELS.parquet", help="labelled catalogue")
    add("--max-sep", type=float, metavar="ARCSEC", default=1.0, help="of a match (default 1)")
    add("--survey", metavar="NAME|FILE", default="hsc-wide", help="profile (default hsc-wide)")
    add("--select", metavar="EXPR", help="only catalogue rows, as for run")
    simard.set_defaults(call=_labels_simard2011)


def _labels_simard2011(args: argparse.Namespace) -> int:
    from survey_gampen.training.labels.simard2011 import main

    return main(
        args.file,
        args.catalog,
        args.out,
        max_sep=args.max_sep,
        survey=args.survey,
        select=args.select,
    )


def _add_train(verbs: Verbs) -> None:
    train = verbs.add_parser("train", help="train a network; again: goes on after the last epoch")
    add = train.add_argument
    _add_training(train)
    add("--labels", type=Path, metavar="FILE", help="labels of the galaxies of a run: DIR is OUT")
    add("--freeze", choices=("nothing", "crop", "features"), help="of the initial model")
    add("--rescale", action="store_true", default=None, help="fit the targets' scale to the labels")
    add("--cluster", metavar="NAME|FILE", help="train on workers of this profile, not here")
    add("--ranks", type=_positive, default=1, metavar="N", help="workers that share each batch")
    add("--dropout-rate", type=float, metavar="P", help="instead of the recipe's")
    add(
        "--memory",
        choices=("auto", "resident", "stream"),
        default="auto",
        help="parts in memory, from the disk as they are wanted, or what fits (auto)",
    )
    train.set_defaults(call=_train)


def _train(args: argparse.Namespace) -> int:
    from survey_gampen.training.train import main

    return main(
        args.recipe,
        args.data,
        args.out,
        labels=args.labels,
        init=args.init,
        device=args.device,
        cluster=args.cluster,
        ranks=args.ranks,
        memory=args.memory,
        dropout_rate=args.dropout_rate,
        freeze=args.freeze,
        rescale=args.rescale,
        **{key: getattr(args, key) for key in _CHANGES},
    )


def _add_calibrate(verbs: Verbs) -> None:
    calibrate = verbs.add_parser(
        "calibrate", help="train with several dropout rates; which one's intervals keep their word?"
    )
    add = calibrate.add_argument
    _add_training(calibrate)
    add("--rates", type=float, nargs="+", required=True, metavar="P", help="dropout rates")
    add("--cluster", default="local", metavar="NAME|FILE", help="cluster profile (default local)")
    calibrate.set_defaults(call=_calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    from survey_gampen.training.calibrate import main

    return main(
        args.recipe,
        args.data,
        args.out,
        args.rates,
        init=args.init,
        device=args.device,
        cluster_name=args.cluster,
        **{key: getattr(args, key) for key in _CHANGES},
    )


def _add_widths(verbs: Verbs) -> None:
    widths = verbs.add_parser(
        "widths",
        help="set the widths of a model's posteriors on galaxies that it never saw",
    )
    add = widths.add_argument
    add("model", metavar="MODEL", help="shipped model or safetensors file")
    add("--data", type=Path, required=True, metavar="DIR", help="what `simulate` made")
    add("--out", type=Path, required=True, metavar="FILE", help="the model with other widths")
    add("--passes", type=_positive, default=128, metavar="N", help="default 128")
    add("--seed", type=int, default=0, metavar="N", help="key of all random numbers (default 0)")
    widths.set_defaults(call=_widths)


def _widths(args: argparse.Namespace) -> int:
    from survey_gampen.training.recalibrate import main

    return main(args.model, args.data, args.out, passes=args.passes, seed=args.seed)


def _add_evaluate(verbs: Verbs) -> None:
    evaluate = verbs.add_parser("evaluate", help="posteriors against known truth")
    add = evaluate.add_argument
    add("model", metavar="MODEL", help="shipped model or safetensors file")
    add("data", type=Path, metavar="DATA", help="what `simulate` made, unseen by the training")
    add("--out", type=Path, required=True, metavar="DIR", help="numbers and pictures")
    add("--passes", type=_positive, default=1000, metavar="N", help="default 1000")
    add("--limit", type=_positive, metavar="N", help="only the first N galaxies")
    add("--seed", type=int, default=0, metavar="N", help="key of all random numbers (default 0)")
    add("--precision", choices=PRECISIONS, default="auto", help="default auto")
    evaluate.set_defaults(call=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from survey_gampen.training.evaluate import main

    return main(
        args.model,
        args.data,
        args.out,
        passes=args.passes,
        limit=args.limit,
        seed=args.seed,
        precision=args.precision,
    )


def _add_training(verb: argparse.ArgumentParser) -> None:
    """What `train` and `calibrate` have in common."""
    add = verb.add_argument
    add("recipe", metavar="RECIPE", help="survey, paper-2021 or a TOML file")
    add("--data", type=Path, required=True, metavar="DIR", help="what `simulate --parts` made")
    add("--out", type=Path, required=True, metavar="DIR", help="state and model")
    add("--init", metavar="NAME|FILE", help="model whose weights to start from (fine-tuning)")
    add("--device", default="cpu", metavar="D", help="cpu (default) or cuda")
    add("--preset", metavar="NAME", help="network, instead of the recipe's")
    add("--morphologies", type=_positive, metavar="N", help="train on the first N only")
    add("--epochs", type=_positive, metavar="N", help="instead of the recipe's")
    add("--learning-rate", type=float, metavar="L", help="instead of the recipe's")
    add("--seed", type=int, metavar="N", help="instead of the recipe's")


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
