"""How fast are galaxies cut out of coadds? Beside astropy's Cutout2D, on the same files.

Two simulated tiles of the size of HSC's (4100 x 4200 pixels; image, mask, variance), as plain FITS
and as ``fpack`` compresses it, are read by

- ``open .data``: what is found in most scripts, the file opened for each galaxy, and
  ``Cutout2D(hdus[1].data, position, size, wcs=WCS(hdus[1].header))``;
- ``open, and mask``: the same for the two planes that this package reads;
- ``open .section``: the image by ``hdus[1].section``, which decompresses only the rows it needs;
- ``kept open``: file, WCS and pixels of a tile opened once for its galaxies;
- ``cutana``: ESA's tool, tile by tile in this process, where it is installed;
- ``package``, cold (a source that was just opened, as each partition has it) and warm (its tiles
  are open). It reads the mask as well, finds the sky level and noise, and fills bad pixels.

Galaxies are sorted by tile, all lie inside, and all files are in the page cache: programs are
compared, not disks. Headers are short ones; real ones take the first two longer. Rates alternate
in one run on one core; their medians count. Pixels must be the same, bit by bit, in nJy.

    python benchmarks/cutting.py [--n 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from ceilings import ceilings, told, write
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from survey_gampen.images import Cutouts, ImageSource, open_images
from survey_gampen.images.pixels.planes import njy_per_unit
from survey_gampen.survey import load_survey

#: Pixels of a coadd patch of HSC, and from one to the next; arcsec a pixel; its zero point.
NX, NY, STRIDE, SCALE, ZERO_POINT = 4100, 4200, 4000, 0.168, 27.0
SIZE = 239
GOAL = 30
PLANES = {"BAD": 0, "SAT": 1, "DETECTED": 5, "NO_DATA": 8, "BRIGHT_OBJECT": 9}
#: One galaxy: file, right ascension and declination [deg].
Galaxy = tuple[Path, float, float]
Pixels = NDArray[np.float32]
Cutter = Callable[[list[Galaxy]], list[Pixels]]


def write_tiles(folder: Path, compressed: bool) -> None:
    """Two neighbours of one tangent plane: noise, and a mask with sources and bad pixels."""
    for number in range(2):
        rng = np.random.default_rng(number)
        image = rng.standard_normal((NY, NX), np.float32) * np.float32(0.05)
        mask = np.zeros((NY, NX), np.int32)
        mask[rng.integers(0, NY, 20_000), rng.integers(0, NX, 20_000)] = 1 << PLANES["DETECTED"]
        mask[rng.integers(0, NY, 2_000), rng.integers(0, NX, 2_000)] |= 1 << PLANES["BAD"]
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.2]
        wcs.wcs.crpix = [STRIDE - STRIDE * number, NY / 2]
        wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
        first = fits.PrimaryHDU()
        first.header.update({"FLUXMAG0": 10 ** (0.4 * ZERO_POINT), "FILTER": "HSC-G"})
        hdus = [first]
        variance = np.full((NY, NX), 0.0025, np.float32)
        for role, pixels in (("IMAGE", image), ("MASK", mask), ("VARIANCE", variance)):
            kind = fits.CompImageHDU if compressed else fits.ImageHDU
            hdu = kind(pixels, wcs.to_header(), name=role)
            if role == "MASK":
                hdu.header.update({f"HIERARCH MP_{name}": bit for name, bit in PLANES.items()})
            hdus.append(hdu)
        name = f"calexp-HSC-G-9813-{number},4.fits" + (".fz" if compressed else "")
        fits.HDUList(hdus).writeto(folder / name)


def galaxies(folder: Path, n: int) -> list[Galaxy]:
    """Positions whose boxes lie inside a tile, away from the others, sorted by tile."""
    rng, found = np.random.default_rng(1), []
    for path in sorted(folder.iterdir()):
        wcs, margin = WCS(fits.getheader(path, 1)), NX - STRIDE + SIZE // 2 + 1
        # Cutana takes the pixel that a position's floor is, the others the nearest: here it is one.
        x, y = (
            rng.integers(margin, side - margin, n // 2) + rng.uniform(0.05, 0.45, n // 2)
            for side in (NX, NY)
        )
        found += [(path, *position) for position in zip(*wcs.all_pix2world(x, y, 0), strict=True)]
    return found


def cutout(pixels: Any, wcs: WCS, ra: float, dec: float) -> Pixels:
    """One galaxy by astropy."""
    return Cutout2D(pixels, SkyCoord(ra, dec, unit=u.deg), SIZE, wcs=wcs, copy=True).data


def open_each(attribute: str, numbers: tuple[int, ...] = (1,)) -> Cutter:
    """The file opened for each galaxy, pixels from `attribute` of these of its HDUs."""

    def cut(some: list[Galaxy]) -> list[Pixels]:
        found = []
        for path, ra, dec in some:
            with fits.open(path) as hdus:
                planes = [
                    cutout(getattr(hdu, attribute), WCS(hdu.header), ra, dec)
                    for hdu in (hdus[number] for number in numbers)
                ]
            found.append(planes[0])
        return found

    return cut


def kept_open(some: list[Galaxy]) -> list[Pixels]:
    """Each file opened once."""
    found = []
    for tile in dict.fromkeys(path for path, _, _ in some):
        with fits.open(tile) as hdus:
            pixels, wcs = hdus[1].data, WCS(hdus[1].header)
            found += [cutout(pixels, wcs, ra, dec) for path, ra, dec in some if path == tile]
    return found


def by_cutana() -> Cutter | None:
    """ESA's cutana, or None."""
    try:
        import cutana
        import pandas as pd
    except ImportError:
        return None
    config = cutana.get_default_config()
    config.fits_extensions = ["IMAGE"]
    config.selected_extensions = []
    config.do_only_cutout_extraction, config.apply_flux_conversion = True, False

    def cut(some: list[Galaxy]) -> list[Pixels]:
        table = pd.DataFrame(
            {
                "SourceID": [str(number) for number in range(len(some))],
                "RA": [ra for _, ra, _ in some],
                "Dec": [dec for _, _, dec in some],
                "diameter_pixel": SIZE,
                "fits_file_paths": [str([str(path)]) for path, _, _ in some],
            }
        )
        results = cutana.create_cutouts_direct(table, config, max_workers=1, log_set_progress=False)
        return [image[..., 0] for result in results for image in result["cutouts"]]

    return cut


def package(source: ImageSource, some: list[Galaxy]) -> list[Cutouts]:
    """All batches."""
    return list(source.cutouts([g[1] for g in some], [g[2] for g in some], SIZE))


def in_order(batches: list[Cutouts]) -> tuple[Pixels, NDArray[np.bool_]]:
    """Images [nJy] in the galaxies' order, and which pixels were replaced."""
    order = np.argsort(np.concatenate([batch.index for batch in batches]))
    image = np.concatenate([batch.image for batch in batches])[order]
    return image, np.concatenate([batch.replaced for batch in batches])[order]


def same(theirs: list[Pixels], ours: Pixels, replaced: NDArray[np.bool_]) -> bool:
    """Whether all pixels that were not replaced are the same, in nJy."""
    njy = np.array(theirs, np.float64) * njy_per_unit(ZERO_POINT)
    return bool((njy.astype(np.float32) == ours)[~replaced].all())


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


def measure(folder: Path, cache: Path, n: int, repeats: int, few: int) -> dict[str, dict[str, Any]]:
    """All methods on one folder; those that open a file a galaxy get `few` of them a repeat."""
    every, survey = galaxies(folder, n), load_survey("hsc-wide")

    def source(frozen: bool = True) -> ImageSource:
        return open_images(folder, survey, "g", SCALE, cache, frozen=frozen)

    source(frozen=False).close()  # a run's client reads all headers, its workers the index
    cutters: dict[str, tuple[Cutter, int]] = {
        "open .data": (open_each("data"), few),
        "open, and mask": (open_each("data", (1, 2)), few),
        "open .section": (open_each("section"), few),
        "kept open": (kept_open, n),
    }
    cutana = by_cutana()
    if cutana is not None:
        cutters["cutana"] = (cutana, n)
    each: dict[str, list[float]] = {name: [] for name in (*cutters, "package cold", "package warm")}
    equal = dict.fromkeys(cutters, True)
    for _ in range(repeats):
        seconds, images = timed(source)
        cold, batches = timed(lambda s=images: package(s, every))  # type: ignore[misc]
        ours, replaced = in_order(batches)
        del batches
        each["package cold"].append((seconds + cold) / n)
        warm, _ = timed(lambda s=images: package(s, every))  # type: ignore[misc]
        each["package warm"].append(warm / n)
        images.close()
        for name, (cutter, count) in cutters.items():
            rows = np.linspace(0, n - 1, count).astype(int)
            seconds, theirs = timed(lambda c=cutter, r=rows: c([every[k] for k in r]))  # type: ignore[misc]
            each[name].append(seconds / count)
            equal[name] &= same(theirs, ours[rows], replaced[rows])
    result: dict[str, dict[str, Any]] = {}
    for name, times in each.items():
        over = [np.median(np.array(times) / each[key]) for key in ("package cold", "package warm")]
        result[name] = {"s_a_cutout": float(np.median(times)), "x_cold": float(over[0])}
        result[name] |= {"x_warm": float(over[1]), "same": equal.get(name)}
    return result


def show(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print a table."""
    table = Table(
        "files", "", "cutouts/s", "ms a cutout", "x cold package", "x warm", "same pixels"
    )
    for files, result in results.items():
        for name, row in result.items():
            speed = f"{1 / row['s_a_cutout']:.1f}", f"{1e3 * row['s_a_cutout']:.3f}"
            ratios = f"{row['x_cold']:.1f}", f"{row['x_warm']:.1f}"
            agree = {None: "", True: "yes", False: "NO"}[row["same"]]
            table.add_row(files, name, *speed, *ratios, agree)
        table.add_section()
    table.caption = "x: of the package's speed, cold and warm"
    Console(width=110).print(table)
    for files, result in results.items():
        ratio = result["open .data"]["x_cold"]
        kept = "kept" if ratio >= GOAL else "NOT kept"
        print(f"{files}: wanted {GOAL} times opening the file for each; {ratio:.1f}, {kept}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--few", type=int, default=6, help="galaxies that open a file a repeat")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    warnings.simplefilter("ignore", AstropyWarning)
    ceiling = ceilings(threads=1)
    print(told(ceiling))
    if by_cutana() is None:
        print("cutana: not installed, left out")
    results = {}
    for files, compressed in (("plain", False), ("fpack", True)):
        with tempfile.TemporaryDirectory() as temporary:
            folder, cache = Path(temporary, "tiles"), Path(temporary, "cache")
            folder.mkdir()
            write_tiles(folder, compressed)
            results[files] = measure(folder, cache, args.n, args.repeats, args.few)
    show(results)
    write(args.json, ceiling, {"n": args.n, "size": SIZE, "cutting": results})


if __name__ == "__main__":
    main()
