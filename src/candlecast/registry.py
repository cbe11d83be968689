"""Kedro datasets on MLflow's model registry: candidates, the champion, its registration."""

from typing import Any

from kedro.io import DatasetError
from kedro_mlflow.io.models import MlflowModelRegistryDataset
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import get_model_info
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from candlecast.champion import Champion

CHAMPION, PREVIOUS = "champion", "previous"
"""Aliases: the version that forecasts are made with, and the one before it."""

ABSENT = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}
"""How registries say that there is no such model (the first) or no such alias (either)."""


class ChampionDataset(MlflowModelRegistryDataset):  # type: ignore[misc] # kedro-mlflow has no types
    """The version that the alias ``champion`` points to; loads a `candlecast.champion.Champion`.

    kedro-mlflow's dataset, with the alias resolved once, so that the model and what is told of it
    are of one version.

    Args:
        model_name: of the registered model.
        missing_ok: load None when there is no champion yet.
    """

    def __init__(
        self, *, model_name: str, missing_ok: bool = False, metadata: dict[str, Any] | None = None
    ):
        super().__init__(
            model_name=model_name, alias=CHAMPION, flavor="mlflow.sklearn", metadata=metadata
        )
        self._missing_ok = missing_ok

    def _load(self) -> Champion | None:
        version = version_of(self.model_name, self.alias)
        if version is None:
            if self._missing_ok:
                return None
            raise DatasetError(
                f"There is no champion: no version of the registered model {self.model_name} has "
                "been promoted. To get one, train a candidate (kedro run --params candidate=<id>), "
                "read its report, and approve it: kedro run --pipelines registration --params "
                '"candidate=<id>,approver=<who>"'
            )
        self.model_uri = f"models:/{self.model_name}/{version.version}"
        information = get_model_info(self.model_uri)
        return Champion(
            version=int(version.version),
            candidate=version.tags["candidate"],
            forest=super()._load(),
            lags=tuple(information.signature.inputs.input_names()),
            tags=dict(version.tags),
            **(information.metadata or {}),
        )


def version_of(model_name: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points to; None when there is no such alias, or model."""
    try:
        return MlflowClient().get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise
