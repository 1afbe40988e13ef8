"""Where things stand in a run's folder: names only, nothing is read or written here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from survey_gampen import storage


@dataclass(frozen=True)
class RunDir:
    """The folder OUT of one run.

    Everything a run knows about itself is in these places; there is no other ledger.

    Parameters
    ----------
    root : Path
        The folder itself, also one of an object store.
    """

    root: Path

    @property
    def home(self) -> Path:
        """Where files are that are no result: the folder itself, unless that is of a store."""
        return storage.home(self.root) if storage.is_remote(self.root) else self.root

    @property
    def run_toml(self) -> Path:
        """All that was resolved at the start; its presence says that planning is complete."""
        return self.root / "run.toml"

    @property
    def catalog(self) -> Path:
        """The input rows, sorted along the sky."""
        return self.root / "catalog"

    @property
    def plan(self) -> Path:
        """One row a partition."""
        return self.root / "plan.parquet"

    @property
    def cutouts(self) -> Path:
        """One Zarr group a partition."""
        return self.root / "cutouts"

    @property
    def posteriors(self) -> Path:
        """The result: a HATS catalogue."""
        return self.root / "posteriors"

    @property
    def samples(self) -> Path:
        """The joint draws, one Zarr group a partition, where they were asked for."""
        return self.root / "samples"

    @property
    def quarantine(self) -> Path:
        """One JSON file a failed partition."""
        return self.root / "quarantine"

    @property
    def claims(self) -> Path:
        """Who works here: one small file a client that ever did (see claim.py)."""
        return self.root / ".claim"

    @property
    def staging_root(self) -> Path:
        """Files in the making; nothing here is ever read as a result."""
        if storage.is_remote(self.root):
            return storage.scratch(self.root)
        return self.root / ".staging"

    @property
    def cache(self) -> Path:
        """What can be made again: the footprints of the images."""
        return self.root / ".cache"

    @property
    def cluster(self) -> Path:
        """What belongs to jobs of a batch system, certificates while a run lasts among it."""
        return self.home / ".cluster"

    @property
    def job_logs(self) -> Path:
        """What the jobs print."""
        return self.cluster / "logs"

    @property
    def attempts(self) -> Path:
        """A line for each beginning and end of an attempt at a partition."""
        return self.home / "attempts.log"

    @property
    def driver_script(self) -> Path:
        """The job script of `survey-gampen submit` (cluster/driver.py)."""
        return self.cluster / "driver.sh"

    @property
    def drivers(self) -> Path:
        """A line for each submission, beginning and end of a driver's job."""
        return self.cluster / "driver.log"

    def staging(self, token: str) -> Path:
        """The corner of the staging area that belongs to the client `token`."""
        return self.staging_root / token

    def cutout_group(self, name: str) -> Path:
        """Cutouts of the partition called `name`."""
        return self.cutouts / f"{name}.zarr"

    def sample_group(self, name: str) -> Path:
        """Draws of the partition called `name`."""
        return self.samples / f"{name}.zarr"

    def quarantine_file(self, name: str) -> Path:
        """Why the partition called `name` was given up."""
        return self.quarantine / f"{name}.json"
