"""What a candidate's MLflow run holds: JSON files with their metrics, the model, the lineage.

They load from the active run; without one, as in a notebook, from the run of the named candidate
or of the newest one.
"""

import contextlib
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import mlflow
import pandas as pd
from kedro.io import DatasetError
from kedro_datasets.json import JSONDataset
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, LoggedModel, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from candlecast.errors import CandlecastError, DamageError, TrackingUnavailableError
from candlecast.models.estimators import trusted_types
from candlecast.read_only import ReadOnlyDataset

UNCHANGED = "Nothing was changed. Run this again later."


def find_run(candidate: str | None = None) -> Run | None:
    """Return the run of a candidate, or of the newest one, in the current experiment, or None."""
    named = f"= '{candidate}'" if candidate else "LIKE '%'"
    runs: list[Run] = mlflow.search_runs(
        filter_string=f"tags.candidate {named}", max_results=1, output_format="list"
    )
    return runs[0] if runs else None


def candidate_run(candidate: str | None) -> Run:
    """Return the run of a candidate, or of the newest one.

    Raises:
        DatasetError: there is no such candidate, or none at all.
    """
    if run := find_run(candidate):
        return run
    runs = mlflow.search_runs(filter_string="tags.candidate LIKE '%'", output_format="list")
    known = [run.data.tags["candidate"] for run in runs]  # the newest first
    if not known:
        raise DatasetError(
            "There is no candidate yet. Train one: kedro run --params candidate=<id>"
        )
    near = get_close_matches(str(candidate), known, n=3, cutoff=0.5) or known[:3]
    raise DatasetError(
        f"There is no candidate {candidate}. Those with the nearest names: {', '.join(near)}."
    )


def _active_run_or(candidate: str | None) -> Run:
    active = mlflow.active_run()
    return mlflow.get_run(active.info.run_id) if active else candidate_run(candidate)


@contextlib.contextmanager
def translate_mlflow_errors(request: str, advice: str = UNCHANGED) -> Iterator[None]:
    """Raise a DatasetError, to which Kedro does not add the dataset's whole description."""
    try:
        yield
    except CandlecastError as error:
        raise DatasetError(str(error)) from error
    except (MlflowException, OSError) as error:  # OSError: requests' errors, of files
        failure = unavailable(request, error, advice)
        failure.__cause__ = error
        raise DatasetError(str(failure)) from failure


@contextlib.contextmanager
def translate_model_errors(find_folder: Callable[[], str], cure: str) -> Iterator[None]:
    """Raise a DamageError if a model can't be read from a folder of this machine.

    Args:
        find_folder: where MLflow keeps the model's files; a server's own place is left alone.
        cure: what to do.
    """
    try:
        yield
    except (MlflowException, OSError, BadZipFile) as error:
        folder = str(local_file_uri_to_path(find_folder()))  # type: ignore[no-untyped-call]
        if not folder.startswith("/"):
            raise
        problem = f"does not hold a whole model ({str(error).rstrip('.')})"
        raise DamageError(
            Path(folder), problem, f"Put back a copy of this folder, or {cure}"
        ) from error


def unavailable(request: str, error: BaseException, advice: str) -> TrackingUnavailableError:
    """Word what MLflow's client raised, without the passwords of an address."""
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    servers = dict.fromkeys([mlflow.get_tracking_uri(), mlflow.get_registry_uri()])
    texts = " and ".join(servers), str(cause).rstrip(".")
    server, said = (re.sub(r"//[^/@\s]*@", "//", text) for text in texts)
    return TrackingUnavailableError(server, request, said, advice)


class LoggedJSON(JSONDataset):  # type: ignore[misc] # kedro-datasets has no types
    """A JSON file that is logged to the active run: whole as an artifact, and some of its values.

    The file is a flat mapping, or a list of rows: then the values are those of the row that is
    ``chosen``, or with `row_metric` there is one metric per row.

    Args:
        filepath: the file.
        metrics: the values that are metrics of the run, those that a person compares, in the order
            of its pages; None: each number. A name that the file does not have is left out.
        row_metric: the column of a row that names its metric, and the column with its value.
        prefix: what stands before their names.
        tags: the values that are tags of the run, by tag. A flag has the text of its name, or
            ``not <name>``.
        dataset: the run's input that the metrics are of; they are then shown with its model, too.
    """

    def __init__(
        self,
        *,
        filepath: str,
        metrics: list[str] | None = None,
        row_metric: tuple[str, str] | None = None,
        prefix: str | None = None,
        tags: dict[str, str] | None = None,
        dataset: str | None = None,
        metadata: dict[str, Any] | None = None,
    ):
        super().__init__(filepath=filepath, save_args={"indent": 2}, metadata=metadata)
        self._metrics = metrics
        self._row_metric = row_metric
        self._prefix = f"{prefix}." if prefix else ""
        self._tags = tags or {}
        self._dataset = dataset

    @property
    def file_name(self) -> str:
        """The name of the file, also as an artifact."""
        return str(self._filepath.name)

    def is_of(self, run: Run) -> bool:
        """Return whether the file is the one that a run has logged, if it has logged one."""
        files = {file.path for file in MlflowClient().list_artifacts(run.info.run_id)}
        logged = f"{run.info.artifact_uri}/{self.file_name}"
        return self.file_name not in files or self.load() == mlflow.artifacts.load_dict(logged)

    def save(self, data: Any) -> None:
        """Write the file, then log it.

        Raises:
            DatasetError: no run is active; nothing is written.
        """
        active = _required_run(self._filepath)
        super().save(data)
        if isinstance(data, dict):
            row = data
        elif self._row_metric:
            name, value = self._row_metric
            row = {each[name]: each[value] for each in data}
        else:
            row = next(each for each in data if each["chosen"])
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        names = numbers if self._metrics is None else self._metrics
        values = {self._prefix + name: float(numbers[name]) for name in names if name in numbers}
        run = mlflow.get_run(active.info.run_id)
        model = logged_model(run.info.run_id) if self._dataset else None
        if not _is_logged(values, run, model):
            dataset = _find_input(run, self._dataset) if self._dataset else None
            model_id = model.model_id if model else None
            mlflow.log_metrics(values, model_id=model_id, dataset=dataset)
        mlflow.set_tags({tag: _tag_text(name, row[name]) for tag, name in self._tags.items()})
        mlflow.log_artifact(str(self._filepath))


def _required_run(what: object) -> Run:
    if active := mlflow.active_run():
        return active
    raise DatasetError(f"{what} is logged to an MLflow run, and none is active.")


def _tag_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return str(value)


def _is_logged(metrics: Mapping[str, float], run: Run, model: LoggedModel | None) -> bool:
    """Return whether a run, and its model if these are of one, have these metrics already.

    Then they are not logged again, as after a kill: their history keeps one point per model.
    """
    known = run.data.metrics
    is_of_model = model is None or bool(model.metrics)
    return is_of_model and all(known.get(name) == value for name, value in metrics.items())


def _find_input(run: Run, dataset: str) -> Dataset | None:
    """Return the input of a run that is the version of a table that it knows, if there is one."""
    name = input_name(dataset, table_versions(run.data.tags).get(dataset))
    inputs = (each.dataset for each in run.inputs.dataset_inputs) if run.inputs else ()
    return next((each for each in inputs if each.name == name), None)


def input_name(table: str, version: int | None) -> str:
    """Return the name of a Delta table as a run's input, the same as MLflow's ``load_delta``."""
    return f"{table}@v{version}"


def table_input(table: str, address: str, version: int) -> MetaDataset:
    """Return a Delta table as a run's input, by its folder or whole name, without its rows."""
    place = "path" if "/" in address else "delta_table_name"
    source = DeltaDatasetSource(**{place: address}, delta_table_version=version)
    # Its property `profile` is abstract by mistake (mlflow 3.17): the class is used as it is.
    return MetaDataset(source, input_name(table, version))  # type: ignore[abstract]


class ModelDataset(MlflowModelTrackingDataset):  # type: ignore[misc] # nor has kedro-mlflow
    """The chosen estimator, refitted, as the logged model of a candidate's run, under its name.

    It is logged with its signature, an example of its input and pinned requirements; its
    ``predict`` returns the probabilities of both classes. A save takes three values: the
    classifier, rows of its input as the example, and what later processes need to know about it (a
    mapping, MLflow's model metadata). Only the registry reads the last two, so a load returns the
    classifier alone.

    Args:
        candidate: whose model is loaded where no run is active; None: the newest candidate's.
    """

    NEEDED = ("mlflow", "numpy", "pandas", "scipy", "sklearn", "skops")
    """What a load needs: a model consists of types of these packages alone."""

    def __init__(self, *, candidate: str | None = None, metadata: dict[str, Any] | None = None):
        super().__init__(
            flavor="mlflow.sklearn",
            save_args={
                "name": "model",  # kedro-mlflow demands one; the candidate's replaces it
                "serialization_format": "skops",  # named, so that it is the same everywhere
                "pyfunc_predict_fn": "predict_proba",
            },
            metadata=metadata,
        )
        self._candidate = candidate

    def _save(self, data: tuple[Any, pd.DataFrame, dict[str, Any]]) -> None:
        model, example, self._save_args["metadata"] = data
        self._save_args["skops_trusted_types"] = trusted_types(model)  # a load finds them there
        # The run has the candidate's name; MLflow allows no dot in that of a model.
        self._save_args["name"] = _required_run("The model").info.run_name.replace(".", "-")
        self._save_args["input_example"] = example
        self._save_args["signature"] = infer_signature(example, model.predict_proba(example))
        # Of the modules themselves: where an image of Databricks has replaced a package by pip, its
        # metadata may have no version (dbdemos-notebooks, pull request 251).
        self._save_args["pip_requirements"] = [
            f"{module.__name__.replace('sklearn', 'scikit-learn')}=={module.__version__}"
            for module in map(importlib.import_module, self.NEEDED)
        ]
        super()._save(model)

    def _load(self) -> Any:
        with translate_mlflow_errors("model"):
            run = _active_run_or(self._candidate)
            candidate, model = run.data.tags["candidate"], logged_model(run.info.run_id)
            if model is None:
                raise DatasetError(
                    f"Candidate {candidate} has no model. Train it: kedro run --params "
                    f"candidate={candidate}; or name another candidate."
                )
            with translate_model_errors(lambda: model.artifact_location, train_again(candidate)):
                return mlflow.sklearn.load_model(model.model_uri)


def train_again(candidate: str) -> str:
    """Return what replaces a candidate's lost model."""
    return f"train the candidate again: kedro run --params candidate={candidate}"


def logged_model(run_id: str) -> LoggedModel | None:
    """Return the newest complete model of a run, or None.

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
    """Return the table versions that a candidate's run read or wrote, sorted by name."""
    return {
        name.removeprefix("version."): int(value)
        for name, value in sorted(tags.items())
        if name.startswith("version.")
    }


class LineageDataset(ReadOnlyDataset[dict[str, Any]]):
    """Where a candidate came from, as its MLflow run knows it; loads a plain mapping.

    Keys: ``candidate``, ``run_id``, ``model_id`` (None before one is trained; its report and card
    must name it), ``experiment``, ``started`` (UTC), ``git_commit``,
    ``git_dirty`` (``true`` if files differed from the commit, ``false`` or ``unknown``),
    ``candlecast`` (the package's version), ``packages`` (name to version), ``versions`` (Delta
    table to the version read or written), ``parameters`` (name to text).

    Args:
        candidate: whose lineage is loaded where no run is active; None: the newest candidate's.
    """

    def __init__(self, *, candidate: str | None = None, metadata: dict[str, Any] | None = None):
        self._candidate = candidate
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Read the run.

        Raises:
            DatasetError: there is no such candidate.
        """
        with translate_mlflow_errors("lineage"):
            run = _active_run_or(self._candidate)
            experiment = mlflow.get_experiment(run.info.experiment_id).name
            model = logged_model(run.info.run_id)
        tags = run.data.tags
        return {
            "candidate": tags["candidate"],
            "run_id": run.info.run_id,
            "model_id": model and model.model_id,
            "experiment": experiment,
            "started": f"{pd.Timestamp(run.info.start_time, unit='ms'):%Y-%m-%d %H:%M} UTC",
            "git_commit": tags["git_commit"],
            "git_dirty": tags.get("git_dirty", "unknown"),
            "candlecast": tags["candlecast"],
            "packages": json.loads(tags["packages"]),
            "versions": table_versions(tags),
            "parameters": dict(sorted(run.data.params.items())),
        }
