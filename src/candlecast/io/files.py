"""Datasets of files, and the clock."""

import datetime as dt
from typing import Any

from kedro_datasets.partitions import PartitionedDataset

from candlecast.io.read_only import ReadOnlyDataset


class FetchedFiles(PartitionedDataset):  # type: ignore[misc] # kedro-datasets has no types
    """One file per ticker, of this run alone: its first save removes what earlier runs left."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments, overwrite=True)

    def save(self, data: dict[str, Any]) -> None:
        """Save the files of one chunk, beside those of the chunks before."""
        super().save(data)
        self._overwrite = False


class Clock(ReadOnlyDataset[dt.datetime]):
    """The time, UTC, to the second: nodes don't look it up themselves."""

    def __init__(self, *, metadata: dict[str, Any] | None = None):
        self.metadata = metadata

    def load(self) -> dt.datetime:
        """Look it up."""
        return dt.datetime.now(dt.UTC).replace(microsecond=0)
