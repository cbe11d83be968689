"""Kedro datasets on MLflow's model registry: a candidate, the champion, promotion and rollback."""

from functools import partial
from typing import Any

import mlflow
from kedro.io import AbstractDataset, DatasetError
from mlflow.models import get_model_info
from mlflow.tracking import MlflowClient

from candlecast.errors import NoChampionError
from candlecast.io.tracking import translate_mlflow_errors, translate_model_errors
from candlecast.names import CHAMPION
from candlecast.read_only import ReadOnlyDataset
from candlecast.registry.client import (
    find_version,
    promote,
    read_aliases,
    read_candidate,
    roll_back,
)
from candlecast.registry.entities import Aliases, Candidate, Champion, Promotion, Rollback

CHAMPION_LOST = (
    "make another version champion: kedro run --pipelines rollback --params approver=<who>, or "
    "train a candidate and register it"
)
"""What to do when the champion's files are lost."""


class ChampionDataset(ReadOnlyDataset[Champion | None]):
    """The version that the alias ``champion`` points to.

    The alias is resolved once, so that the model and its facts are of one version.

    Args:
        model_name: of the registered model.
        missing_ok: load None when there is no champion yet.
    """

    def __init__(
        self, *, model_name: str, missing_ok: bool = False, metadata: dict[str, Any] | None = None
    ):
        self._model_name = model_name
        self._missing_ok = missing_ok
        self.metadata = metadata

    def load(self) -> Champion | None:
        """Load the version.

        Raises:
            DatasetError: MLflow does not answer; or, caused by `NoChampionError`, there is none.
        """
        with translate_mlflow_errors("champion"):
            version = find_version(self._model_name, CHAMPION)
            if version is None:
                if self._missing_ok:
                    return None
                raise NoChampionError(self._model_name)
            uri = f"models:/{self._model_name}/{version.version}"
            address = partial(
                MlflowClient().get_model_version_download_uri, self._model_name, version.version
            )
            with translate_model_errors(address, CHAMPION_LOST):
                model, classifier = get_model_info(uri), mlflow.sklearn.load_model(uri)
            return Champion(
                version=int(version.version),
                candidate=version.tags["candidate"],
                model=classifier,
                columns=tuple(model.signature.inputs.input_names()),
                tags=dict(version.tags),
                **(model.metadata or {}),
            )


class CandidateDataset(ReadOnlyDataset[Candidate]):
    """What the MLflow run of one named candidate holds.

    Args:
        candidate: the id that it was trained and reported as.
        model_name: of the registered model that may have a version of it.
    """

    def __init__(
        self, *, candidate: str | None, model_name: str, metadata: dict[str, Any] | None = None
    ):
        self._candidate = candidate
        self._model_name = model_name
        self.metadata = metadata

    def load(self) -> Candidate:
        """Read the run.

        Raises:
            DatasetError: no candidate is named, there is no such candidate, or MLflow does not
                answer.
        """
        if self._candidate is None:
            raise DatasetError("Name the candidate: --params candidate=<id>. Its report shows it.")
        with translate_mlflow_errors(f"candidate {self._candidate}"):
            return read_candidate(self._candidate, self._model_name)


class AliasesDataset(ReadOnlyDataset[Aliases]):
    """Which versions the aliases ``champion`` and ``previous`` point to.

    Args:
        model_name: of the registered model; ``<catalog>.<schema>.<name>`` in Unity Catalog.
    """

    def __init__(self, *, model_name: str, metadata: dict[str, Any] | None = None):
        self._model_name = model_name
        self.metadata = metadata

    def load(self) -> Aliases:
        """Read both.

        Raises:
            DatasetError: MLflow does not answer.
        """
        with translate_mlflow_errors("champion"):
            return read_aliases(self._model_name)


class DecisionDataset(AbstractDataset[Promotion | Rollback, None]):
    """A decision on the champion: a save carries it out in the registry.

    Args:
        model_name: of the registered model.
    """

    def __init__(self, *, model_name: str, metadata: dict[str, Any] | None = None):
        self._model_name = model_name
        self.metadata = metadata

    def load(self) -> None:
        """Raise: a decision is not stored."""
        raise DatasetError("A decision is carried out, not stored; load aliases instead.")

    def save(self, data: Promotion | Rollback) -> None:
        """Carry it out.

        Raises:
            DatasetError: MLflow does not answer; or, caused by `RegistrationError`, the champion
                has changed since the decision.
        """
        advice = "The alias may already have moved. Running the same command again is safe."
        with translate_mlflow_errors(f"registered model {self._model_name}", advice):
            if isinstance(data, Promotion):
                promote(self._model_name, data)
            else:
                roll_back(self._model_name, data)

    def _describe(self) -> dict[str, Any]:
        return {"model_name": self._model_name}
