"""The base of datasets that are never saved."""

from typing import Any, TypeVar

from kedro.io import AbstractDataset, DatasetError

Loaded = TypeVar("Loaded")


class ReadOnlyDataset(AbstractDataset[None, Loaded]):
    """A dataset that is only loaded; its description is the arguments of its catalog entry."""

    def save(self, data: None) -> None:
        """Refuse."""
        raise DatasetError(f"{type(self).__name__} is read only.")

    def _describe(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self._init_args  # type: ignore[attr-defined] # Kedro's
        return {name: value for name, value in arguments.items() if name != "metadata"}
