"""Datasets of files."""

from typing import Any

from kedro_datasets.partitions import PartitionedDataset


class FetchedFiles(PartitionedDataset):  # type: ignore[misc] # kedro-datasets has no types
    """One file per ticker, of this run alone: its first save removes what earlier runs left."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments, overwrite=True)

    def save(self, data: dict[str, Any]) -> None:
        """Save the files of one chunk, beside those of the chunks before."""
        super().save(data)
        self._overwrite = False
