"""Cutouts of one partition as a Zarr v3 group.

``image(object, y, x)`` in nJy, sharded and compressed with zstd, with one-dimensional arrays
beside it (``object_id``, ``ra``, ``dec``, ``status``, ``note``, the sky, facts of the tile), so
that ``xarray.open_zarr`` gives a labelled dataset. Where a network sees several bands it is
``image(object, band, y, x)``, with their names in ``band``, the first the reference; sky and facts
of the tile are (object, band) then. Rows stand in the order of the table they were made from. The
group is published in one step (:mod:`survey_gampen.generations`), and its root attribute
``complete`` is written last: neither depends on counting chunks, of which all-zero ones are never
stored. Pixels may be rounded, by the step ``quantum`` (:mod:`survey_gampen.images.rounding`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from survey_gampen.generations import check_generation, generation, open_group, publish_group
from survey_gampen.images.base import Cutouts, ImageSource
from survey_gampen.images.rounding import quanta, quantise
from survey_gampen.images.stack import StackedSource
from survey_gampen.outside import outside_faults
from survey_gampen.quiet import quiet_zarr
from survey_gampen.stages import Stages
from survey_gampen.storage import zarr_store

#: Chunks in a shard: 4 chunks of 64 galaxies are one file of 58 MB before compression, which is
#: also what a writer holds in memory. Of several bands fewer, so that it is the same.
CHUNKS_A_SHARD = 4
#: Bits of equal weight side by side: what makes floats compressible at all.
COMPRESSOR = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")
FORMAT = "survey-gampen cutouts 1"
_TEXT = np.dtypes.StringDType()

_DESCRIPTIONS = {
    "object_id": "name of the galaxy",
    "ra": "right ascension, ICRS, deg",
    "dec": "declination, ICRS, deg",
    "status": "bit field, see status_bits of the group",
    "note": "why a cutout is unusable",
    "replaced": "share of the pixels that come from no image or were bad",
    "sky_level": "local sky level a pixel of the original image, nJy",
    "sky_sigma": "local sky noise a pixel of the original image, nJy",
    "quantum": "step that pixels were rounded to, nJy; 0: exact",
    "zero_point": "AB magnitude of one unit of the original image",
    "pixel_scale": "arcsec a pixel of the original image",
    "psf_fwhm": "FWHM of the PSF where the image tells it, arcsec",
    "tile": "file that the centre was cut from",
}


@dataclass
class CutoutStore:
    """The published cutouts of one partition.

    Attributes
    ----------
    path : Path
    object_id, ra, dec, status, sky_sigma, pixel_scale : ndarray, shape (n,)
        The last two (n, bands) where there are several.
    note : list of (str or None)
    extra : dict of str to ndarray
        ``sky_level``, ``quantum``, ``zero_point``, ``psf_fwhm``, ``tile`` (of each band where there
        are several), ``replaced`` (NaN where the cutouts are older than that column).
    attrs : dict
        Attributes of the group: ``size``, ``pixel_scale``, ``lossy``, ``source``.
    """

    path: Path
    object_id: NDArray[Any]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    status: NDArray[np.int32]
    note: list[str | None]
    sky_sigma: NDArray[np.float32]
    pixel_scale: NDArray[np.float32]
    extra: dict[str, NDArray[Any]]
    attrs: dict[str, Any]
    _image: Any = field(repr=False)
    _generation: str = ""

    @property
    def n(self) -> int:
        """Galaxies."""
        return len(self.object_id)

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self._image.shape[-1])

    def chunks(self, chunk: int = 64) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Images in order, at most `chunk` at a time: (rows, nJy (k, size, size)), or with the
        bands as second axis where there are several."""
        for start in range(0, self.n, chunk):
            rows = slice(start, min(start + chunk, self.n))
            with outside_faults(self.path):
                image = self._read(rows)
            yield rows, image

    def one(self, place: int) -> NDArray[np.float32]:
        """The image of one galaxy, in the reference band: nJy (size, size)."""
        where = (place,) if self._image.ndim == 3 else (place, 0)
        with outside_faults(self.path):
            return self._read(where)

    def _read(self, where: slice | tuple[int, ...]) -> NDArray[np.float32]:
        image = np.ascontiguousarray(self._image[where])
        check_generation(self.path, self._generation)
        return image


def is_complete(path: Path, **attributes: Any) -> bool:
    """Whether the cutouts of a partition are there, whole, and have these attributes."""
    try:
        with outside_faults(path):
            found = zarr.open_group(zarr_store(path), mode="r").attrs
        return all(found.get(k) == v for k, v in {**attributes, "complete": True}.items())
    except (FileNotFoundError, KeyError, ValueError):
        return False


def open_cutouts(path: Path, **attributes: Any) -> CutoutStore:
    """Open published cutouts; pixels are read when asked for.

    Raises
    ------
    FileNotFoundError
        Not there, not whole, or without these attributes. In an object store also from reading
        pixels, where the cutouts were removed meanwhile.
    """
    if not is_complete(path, **attributes):
        raise FileNotFoundError(f"{path}: no complete cutouts there")
    quiet_zarr()
    with outside_faults(path):
        counted = generation(path)
        group = open_group(path)
        columns = {name: np.asarray(group[name][:]) for name in _DESCRIPTIONS if name in group}
        check_generation(path, counted)
    if "replaced" not in columns:  # cut before there was such a column
        columns["replaced"] = np.full(len(columns["status"]), np.nan, np.float32)
    if columns["object_id"].dtype.kind not in "iu":
        columns["object_id"] = columns["object_id"].astype(object)
    note = [text or None for text in columns.pop("note").tolist()]
    own = ("object_id", "ra", "dec", "status", "sky_sigma", "pixel_scale")
    return CutoutStore(
        path=path,
        note=note,
        **{name: columns.pop(name) for name in own},
        extra=columns,
        attrs=dict(group.attrs),
        _image=group["image"],
        _generation=counted,
    )


def write_cutouts(
    dest: Path,
    source: ImageSource,
    table: pa.Table,
    size: int,
    *,
    staging: Path,
    chunk: int = 64,
    lossy: float = 0.0,
    attributes: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
) -> None:
    """Cut out the galaxies of a table and publish them; does nothing if they are there.

    Memory holds one shard (``CHUNKS_A_SHARD * chunk`` images, of several bands fewer), whatever the
    table's length.

    Parameters
    ----------
    dest : Path
        The published group.
    source : ImageSource
        Where pixels come from.
    table : pyarrow.Table
        Columns object_id, ra, dec (degrees).
    size : int
        Pixels a side; odd.
    staging : Path
        Folder on the file system of `dest`.
    chunk : int
        Galaxies in a chunk, the least that is read at once.
    lossy : float
        0: exact. Else the largest step of rounding in units of the sky noise.
    attributes : mapping, optional
        More attributes of the group, such as the run it belongs to.
    stages : Stages, optional
        Told how long ``cutting`` takes.

    Raises
    ------
    UnreadableFile
        A file of the source exists and cannot be read.
    OutsideFault
        The disk is full or gone.
    """
    more, timed = dict(attributes or {}), stages or Stages()
    publish_group(
        dest, lambda path: _write(path, source, table, size, chunk, lossy, more, timed), staging
    )


def _write(
    path: Path,
    source: ImageSource,
    table: pa.Table,
    size: int,
    chunk: int,
    lossy: float,
    attributes: dict[str, Any],
    stages: Stages,
) -> None:
    n = table.num_rows
    bands = source.bands if isinstance(source, StackedSource) else ()
    several = (len(bands),) if bands else ()
    chunk = max(1, min(chunk, n))
    most = CHUNKS_A_SHARD // max(1, len(bands))
    shard = chunk * max(1, min(most, -(-n // chunk)))
    ra = table["ra"].to_numpy().astype(np.float64)
    dec = table["dec"].to_numpy().astype(np.float64)
    ids = table["object_id"].to_pylist()
    columns = _columns(table["object_id"], ra, dec, several)
    quiet_zarr()
    group = zarr.open_group(path, mode="w", zarr_format=3)
    dimension = ("band",) if bands else ()
    image = group.create_array(
        "image",
        shape=(n, *several, size, size),
        dtype="float32",
        chunks=(chunk, *several, size, size),
        shards=(shard, *several, size, size),
        compressors=[COMPRESSOR],
        fill_value=0.0,
        dimension_names=("object", *dimension, "y", "x"),
        attributes={
            "units": "nJy",
            "coordinates": "object_id ra dec",
        },
    )
    for start in range(0, n, shard):
        rows = slice(start, min(start + shard, n))
        pixels = np.zeros((rows.stop - rows.start, *several, size, size), np.float32)
        found = source.cutouts(ra[rows], dec[rows], size, ids[rows])
        for batch in stages.each("cutting", found):
            place = batch.index + start
            _note_facts(columns, place, batch)
            columns["quantum"][place] = quanta(batch.sky_sigma, lossy)
            pixels[batch.index] = quantise(batch.image, columns["quantum"][place])
        image[rows] = pixels  # a whole shard, by this one writer
    for name, values in columns.items():
        group.create_array(
            name,
            data=values,
            chunks=(max(1, n), *values.shape[1:]),
            dimension_names=("object", *dimension[: values.ndim - 1]),
            attributes={"description": _DESCRIPTIONS[name]},
        )
    if bands:
        group.create_array("band", data=np.array(bands, _TEXT), dimension_names=("band",))
    group.attrs.update(
        {
            "format": FORMAT,
            "size": size,
            "pixel_scale": source.pixel_scale,
            "lossy": lossy,
            "source": source.describe(),
            **attributes,
        }
    )
    # One small file that tells a reader all about the arrays: a tenth of the opening time.
    group = zarr.consolidate_metadata(group.store)
    group.attrs["complete"] = True


def _columns(
    ids: pa.ChunkedArray, ra: NDArray[Any], dec: NDArray[Any], several: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """The arrays beside the image, to be filled batch by batch; `several` is () or (bands,)."""
    n = len(ids)
    unknown = ("sky_level", "sky_sigma", "zero_point", "pixel_scale", "psf_fwhm")
    integers = pa.types.is_integer(ids.type)
    names = ids.to_numpy() if integers else np.array(ids.cast(pa.string()).to_pylist(), _TEXT)
    return {
        "object_id": names,
        "ra": ra,
        "dec": dec,
        "status": np.zeros(n, np.int32),
        "note": np.full(n, "", _TEXT),
        "replaced": np.ones(n, np.float32),
        "tile": np.full((n, *several), "", _TEXT),
        "quantum": np.zeros((n, *several), np.float32),
        **{name: np.full((n, *several), np.nan, np.float32) for name in unknown},
    }


def _note_facts(columns: dict[str, NDArray[Any]], place: NDArray[np.int64], batch: Cutouts) -> None:
    columns["status"][place] = batch.status
    columns["note"][place] = [note or "" for note in batch.note]
    columns["replaced"][place] = batch.replaced.mean(axis=(1, 2), dtype=np.float64)
    columns["sky_level"][place] = batch.sky_level
    columns["sky_sigma"][place] = batch.sky_sigma
    tile = batch.facts.get("tile")
    columns["tile"][place] = "" if tile is None else tile
    for name in ("zero_point", "pixel_scale", "psf_fwhm"):
        value = batch.facts.get(name)
        columns[name][place] = np.nan if value is None else value
