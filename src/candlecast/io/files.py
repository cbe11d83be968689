"""Datasets of files."""

from typing import Any

from kedro_datasets.partitions import PartitionedDataset


class FetchedFiles(PartitionedDataset):  # type: ignore[misc] # kedro-datasets has no types
    """One file per ticker, of this run alone: the first save removes what an earlier run left."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments, overwrite=True)

    def save(self, data: dict[str, Any]) -> None:
        """Save the files of one chunk, and keep those of earlier chunks."""
        super().save(data)
        self._overwrite = False
