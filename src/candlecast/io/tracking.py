"""Datasets of a candidate's MLflow run."""

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from kedro_datasets.json import JSONDataset
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier


class LoggedJSON(JSONDataset):  # type: ignore[misc] # kedro-datasets has no types
    """A JSON file that is logged to the run: as an artifact, its numbers as metrics in one batch.

    A flat mapping gives one metric per number. A list of rows gives a history for each number of a
    row: the metric ``<prefix>.<name>`` over the steps that the column `step` holds.

    Args:
        filepath: the file.
        step: the column of a list of rows that is the step.
        prefix: what stands before a history's names.
    """

    def __init__(
        self,
        *,
        filepath: str,
        step: str | None = None,
        prefix: str | None = None,
        metadata: dict[str, Any] | None = None,
    ):
        super().__init__(filepath=filepath, save_args={"indent": 2}, metadata=metadata)
        self._step = step
        self._prefix = prefix

    def save(self, data: Any) -> None:
        """Write the file, then log it."""
        super().save(data)
        run = mlflow.active_run()
        if run is None:
            raise DatasetError(f"{self._filepath} belongs to an MLflow run, and none is active.")
        rows = [data] if isinstance(data, dict) else data
        prefix = f"{self._prefix}." if self._prefix else ""
        client, now = MlflowClient(), int(pd.Timestamp.now("UTC").timestamp() * 1000)
        points = [
            Metric(
                _metric_name(prefix + name),
                float(value),
                now,
                int(row[self._step]) if self._step else 0,
            )
            for row in rows
            for name, value in row.items()
            if isinstance(value, int | float) and name != self._step
        ]
        for first in range(0, len(points), 1000):  # MLflow's limit for one batch
            client.log_batch(run.info.run_id, metrics=points[first : first + 1000])
        client.log_artifact(run.info.run_id, str(self._filepath))


def _metric_name(name: str) -> str:
    """MLflow's names have letters, digits and ``_-. :/`` only; a ticker like ^GSPC has others."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def pinned(packages: Sequence[str]) -> list[str]:
    """Pin packages to the versions that are installed.

    On images of Databricks whose packages pip has replaced, the metadata may have no version or
    answer None (dbdemos-notebooks, pull request 251). The module says it then; a package whose
    version neither knows is left out.
    """
    found = {}
    for package in packages:
        try:
            version: str | None = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = None
        module = package.replace("scikit-learn", "sklearn")
        found[package] = version or getattr(importlib.import_module(module), "__version__", None)
    return [f"{package}=={version}" for package, version in found.items() if version]


class ForestDataset(MlflowModelTrackingDataset):  # type: ignore[misc] # nor kedro-mlflow
    """The chosen forest as a logged model of the candidate's run.

    Saved with its signature, an example of its input, and the pinned versions of what it needs; its
    ``predict`` gives both classes' probabilities. What is saved is a triple: the forest, the rows
    of its input to show as the example, and what to know of it (a mapping that travels with it as
    MLflow's model metadata). What is loaded is the forest of the active run, also in another
    process than the one that saved it.
    """

    REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops")

    def __init__(self, *, metadata: dict[str, Any] | None = None):
        super().__init__(
            flavor="mlflow.sklearn",
            save_args={
                "name": "model",
                "serialization_format": "skops",  # named, so that it is the same everywhere
                "skops_trusted_types": ["sklearn.tree._tree.Tree"],
                "pyfunc_predict_fn": "predict_proba",
                "pip_requirements": pinned(self.REQUIREMENTS),
            },
            metadata=metadata,
        )

    def _save(self, data: tuple["RandomForestClassifier", pd.DataFrame, dict[str, Any]]) -> None:
        model, example, self._save_args["metadata"] = data
        self._save_args["input_example"] = example
        self._save_args["signature"] = infer_signature(example, model.predict_proba(example))
        super()._save(model)

    def _load(self) -> "RandomForestClassifier":
        run = mlflow.active_run()
        if run is None:
            raise DatasetError("The model belongs to an MLflow run, and none is active.")
        model = logged_model(run.info.run_id)
        if model is None:
            raise DatasetError(
                f"The MLflow run {run.info.run_id} has no model. To go on, train one: "
                "kedro run --tags train, with the same candidate."
            )
        return mlflow.sklearn.load_model(model.model_uri)


def logged_model(run_id: str) -> LoggedModel | None:
    """Return the newest whole model that was logged to a run; None when there is none.

    The run itself names its models: Databricks can't search them by run (mlflow 3.17,
    tracking/_model_registry/fluent.py, ``_get_logged_models_from_run``).
    """
    client = MlflowClient()
    outputs = client.get_run(run_id).outputs
    models = [
        client.get_logged_model(output.model_id)
        for output in (outputs.model_outputs if outputs else [])
    ]
    whole = [model for model in models if model.status == LoggedModelStatus.READY]
    return max(whole, key=lambda model: model.creation_timestamp, default=None)


def table_versions(tags: Mapping[str, str]) -> dict[str, int]:
    """Return the versions of the tables that a candidate's run read or wrote, by name, sorted."""
    return {
        name.removeprefix("version."): int(value)
        for name, value in sorted(tags.items())
        if name.startswith("version.")
    }


class LineageDataset(AbstractDataset[None, dict[str, Any]]):
    """What the candidate's MLflow run knows of itself, for the report; loads a plain mapping.

    Keys: ``candidate``, ``run_id``, ``experiment``, ``started`` (UTC), ``git_commit``,
    ``git_dirty`` (``true`` if files differed from the commit, ``false`` or ``unknown``),
    ``candlecast`` (the package's version), ``packages`` (name to version), ``versions`` (Delta
    table to the version read or written), ``parameters`` (name to text).
    """

    def __init__(self, *, metadata: dict[str, Any] | None = None):
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Read the active run.

        Raises:
            DatasetError: no run is active.
        """
        active = mlflow.active_run()
        if active is None:
            raise DatasetError("Lineage belongs to an MLflow run, and none is active.")
        run = mlflow.get_run(active.info.run_id)
        tags = run.data.tags
        return {
            "candidate": tags["candidate"],
            "run_id": run.info.run_id,
            "experiment": mlflow.get_experiment(run.info.experiment_id).name,
            "started": f"{pd.Timestamp(run.info.start_time, unit='ms'):%Y-%m-%d %H:%M} UTC",
            "git_commit": tags["git_commit"],
            "git_dirty": tags.get("git_dirty", "unknown"),
            "candlecast": tags["candlecast"],
            "packages": json.loads(tags["packages"]),
            "versions": table_versions(tags),
            "parameters": dict(sorted(run.data.params.items())),
        }

    def save(self, data: None) -> None:
        """Lineage is not written by a node."""
        raise DatasetError("Lineage is read only; hooks write it while the run goes on.")

    def _describe(self) -> dict[str, Any]:
        return {}
