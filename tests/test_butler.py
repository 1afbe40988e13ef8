"""Coadds of a Butler repository, with a stand-in for ``lsst.daf.butler``.

It imitates the calls as the documentation of the LSST Science Pipelines describes them; a real
repository has not been tried.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from skytiles import SURVEY, crop, gather, noise, sky_wcs, write_tile

from survey_gampen.errors import InputError
from survey_gampen.images import open_images

SPEC = "butler:/repo?collection=LSSTComCam/DP1"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two coadds in band g, and what the Butler was asked."""
    mosaic = noise((100, 180), 3)
    for number, x0 in enumerate((0, 80)):
        write_tile(
            tmp_path / "datastore" / f"deep_coadd_{number}.fits",
            mosaic[:, x0 : x0 + 100],
            sky_wcs(x0),
        )
    seen: list[tuple[Any, ...]] = []
    scheme = ["file"]

    class Butler:
        @classmethod
        def from_config(cls, config: str, *, collections: str) -> Butler:
            seen.append((config, collections))
            return cls()

        def query_datasets(
            self, kind: str, *, where: str, bind: dict[str, Any], limit: None, explain: bool
        ) -> list[int]:
            seen.append((kind, where, bind["band"]))
            assert limit is None
            assert not explain
            return [1, 0] if bind["band"] == "g" else []

        def getURI(self, ref: int) -> SimpleNamespace:  # noqa: N802
            path = tmp_path / "datastore" / f"deep_coadd_{ref}.fits"
            return SimpleNamespace(scheme=scheme[0], ospath=str(path))

    for name in ("lsst", "lsst.daf", "lsst.daf.butler"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lsst.daf.butler"].Butler = Butler  # type: ignore[attr-defined]
    return SimpleNamespace(mosaic=mosaic, seen=seen, scheme=scheme)


def test_coadds_are_tiles(repository: SimpleNamespace, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = open_images(SPEC, SURVEY, "g", cache_dir=cache)
    x, y = np.array([30, 90, 150]), np.array([50, 50, 50])
    ra, dec = sky_wcs().all_pix2world(x, y, 0)
    image, status, _, _ = gather(source, ra, dec, 21)
    assert not status.any()
    for i in range(3):
        wanted = crop(repository.mosaic, x[i], y[i], 21) * 10 ** (0.4 * 4.4)
        assert np.allclose(image[i], wanted, rtol=1e-5)
    assert repository.seen == [
        ("/repo", "LSSTComCam/DP1"),
        ("deep_coadd", "band.name = :band", "g"),
    ]
    # A worker takes the list as it was made, and needs no Butler.
    del sys.modules["lsst.daf.butler"]
    worker = open_images(SPEC, SURVEY, "g", cache_dir=cache, frozen=True)
    assert worker.inventory() == source.inventory()
    assert len(repository.seen) == 2


def test_what_cannot_be_used(repository: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, band, said in [
        (SPEC, "r", "no deep_coadd in band r"),
        ("butler:/repo", "g", "say which coadds"),
        ("butler:?collection=a", "g", "say which coadds"),
        (f"{SPEC}&tract=1", "g", "unknown word 'tract'"),
    ]:
        with pytest.raises(InputError, match=said):
            open_images(spec, SURVEY, band)
    repository.scheme[0] = "s3"
    with pytest.raises(InputError, match="lie at s3://"):
        open_images(SPEC, SURVEY, "g")
    monkeypatch.setitem(sys.modules, "lsst.daf.butler", None)
    with pytest.raises(InputError, match="need lsst-daf-butler") as caught:
        open_images(SPEC, SURVEY, "g")
    assert len(str(caught.value).splitlines()) == 1
