"""Kedro datasets on MLflow's model registry: candidates, the champion, its registration."""

import contextlib
import datetime as dt
import json
import logging
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import mlflow
from kedro.io import AbstractDataset, DatasetError
from kedro_mlflow.io.models import MlflowModelRegistryDataset
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import get_model_info
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.tracking import MlflowClient

from candlecast.errors import CandlecastError
from candlecast.io.tracking import logged_model
from candlecast.names import CHAMPION, PREVIOUS
from candlecast.registry.entities import (
    Aliases,
    Candidate,
    Champion,
    Promotion,
    Rollback,
    Version,
)

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""How MLflow's client asks while nothing is lost yet: some 5 s for a server that is not there."""

UNREACHED = (MlflowException, OSError)
"""What MLflow's client raises; the files of a run come by requests, whose errors are OSErrors."""


class TrackingUnavailableError(CandlecastError):
    """MLflow's tracking server or registry does not answer as it should; nothing was begun."""

    def __init__(self, cause: BaseException):
        super().__init__(
            _answer("experiment, runs and registered model", cause)
            + " Nothing was read or written. Check that it runs and that its address is right "
            "(server.mlflow_tracking_uri in conf/<env>/mlflow.yml, which follows "
            "MLFLOW_TRACKING_URI in the environment databricks alone), then run again."
        )


class NoChampionError(CandlecastError, DatasetError):
    """No version of the registered model has been promoted yet."""

    def __init__(self, model_name: str):
        super().__init__(
            f"There is no champion: no version of the registered model {model_name} has been "
            "promoted. To get one, train a candidate (kedro run --params candidate=<id>), read its "
            "report, and approve it: kedro run --pipelines registration --params "
            '"candidate=<id>,approver=<who>"'
        )


class ChampionDataset(MlflowModelRegistryDataset):  # type: ignore[misc] # kedro-mlflow has no types
    """The version that the alias ``champion`` points to; loads a `Champion`.

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
            raise NoChampionError(self.model_name)
        self.model_uri = f"models:/{self.model_name}/{version.version}"
        information = get_model_info(self.model_uri)
        return Champion(
            version=int(version.version),
            candidate=version.tags["candidate"],
            model=super()._load(),
            features=tuple(information.signature.inputs.input_names()),
            tags=dict(version.tags),
            **(information.metadata or {}),
        )


def version_of(model_name: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points to; None when there is no such alias, or model."""
    client = MlflowClient()
    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if _says_absent(error):
            return None
        # The open-source registry says so of an absent alias, and of requests that are wrong.
        refused = error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE)
        if refused and alias not in client.get_registered_model(model_name).aliases:
            return None
        raise


def _says_absent(error: MlflowException) -> bool:
    """Whether a registry says that something is not there: each has codes of its own for it."""
    answer = error.json if isinstance(error, RestException) else {}
    code = str(answer.get("error_code", error.error_code))
    absent = code.endswith(("DOES_NOT_EXIST", "NOT_FOUND"))
    return absent and code != ErrorCode.Name(ENDPOINT_NOT_FOUND)  # the wrong server


def run_of(candidate: str | None) -> Run | None:
    """Return the run of a candidate in the experiment that is set; None when there is none."""
    runs: list[Run] = mlflow.search_runs(
        filter_string=f"tags.candidate = '{candidate}'", max_results=1, output_format="list"
    )
    return runs[0] if runs else None


class CandidateDataset(AbstractDataset[None, Candidate]):
    """What the MLflow run of one named candidate holds; loads a `Candidate`.

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
            DatasetError: there is no such candidate, or the server does not answer.
        """
        with _asking(f"candidate {self._candidate}", "Nothing was registered. Run it again later."):
            run = run_of(self._candidate)
            if run is None:
                raise DatasetError(self._unknown())
            return self._read(run)

    def _read(self, run: Run) -> Candidate:
        client, run_id = MlflowClient(), run.info.run_id
        files = {file.path for file in client.list_artifacts(run_id)}
        judged = client.get_metric_history(run_id, "gate.passed")
        logged = logged_model(run_id)
        # Of the model's own file, by the same clock as the metrics; the server may have another.
        model = get_model_info(logged.model_uri) if logged else None
        told = (model and model.metadata) or {}
        return Candidate(
            name=str(self._candidate),
            run_id=run_id,
            status=run.info.status,
            tags=dict(run.data.tags),
            metrics=dict(run.data.metrics),
            has_report="report.html" in files,
            card=_text_of(run, "model_card.md") if "model_card.md" in files else None,
            model_id=logged.model_id if logged else None,
            window=told.get("window"),
            body=told.get("body"),
            trained_at=_utc(dt.datetime.fromisoformat(model.utc_time_created)) if model else None,
            evaluated_at=_utc(dt.datetime.fromtimestamp(judged[-1].timestamp / 1000, dt.UTC))
            if judged
            else None,
            version=_version_of_model(self._model_name, run_id, logged.model_id)
            if logged
            else None,
        )

    def _unknown(self) -> str:
        """Word the refusal, with the candidates that may have been meant."""
        runs = mlflow.search_runs(filter_string="tags.candidate LIKE '%'", output_format="list")
        known = [run.data.tags["candidate"] for run in runs]  # the newest first
        near = get_close_matches(str(self._candidate), known, n=3, cutoff=0.5) or known[:3]
        return f"There is no candidate {self._candidate} to register. " + (
            f"Those with the nearest names: {', '.join(near)}."
            if near
            else "There is none at all yet; train one: kedro run --params candidate=<id>"
        )

    def save(self, data: None) -> None:
        """A candidate's run is what it is."""
        raise DatasetError("A candidate is read only; a run of the other pipelines makes it.")

    def _describe(self) -> dict[str, Any]:
        return {"candidate": self._candidate, "model_name": self._model_name}


class AliasesDataset(AbstractDataset[Promotion | Rollback, Aliases]):
    """Where ``champion`` and ``previous`` point to; saving a promotion or a rollback moves them.

    ``champion`` is moved last and in one request, so that it points to the old version or to the
    new one whenever the process or the server dies. Each step can be done again: a version that a
    killed registration has made is taken, never a second one.

    Args:
        model_name: of the registered model; ``<catalog>.<schema>.<name>`` in Unity Catalog.

    ``told`` says in lines what was last saved.
    """

    def __init__(self, *, model_name: str, metadata: dict[str, Any] | None = None):
        self._model_name = model_name
        self.metadata = metadata
        self.told: list[str] = []

    def load(self) -> Aliases:
        """Ask the registry.

        Raises:
            DatasetError: it does not answer.
        """
        with _asking("champion", "Nothing was changed. Run it again later."):
            champion, previous = (
                version_of(self._model_name, alias) for alias in (CHAMPION, PREVIOUS)
            )
        return Aliases(_plain(champion), _plain(previous))

    def save(self, data: Promotion | Rollback) -> None:
        """Do what was decided.

        Raises:
            DatasetError: the registry does not answer, or another registration came between.
        """
        with _asking(
            "registered model",
            "The champion is the old version or the new one, whole; the same command finishes the "
            "job.",
        ):
            self.told = (
                self._promote(data) if isinstance(data, Promotion) else self._roll_back(data)
            )

    def _promote(self, promotion: Promotion) -> list[str]:
        candidate, name = promotion.candidate, self._model_name
        if promotion.former is not None and promotion.former == candidate.version:
            return [
                f"already champion: {name} v{candidate.version}, candidate {candidate.name}; "
                "nothing is changed"
            ]
        tags = {**promotion.tags, "promoted_at": _now()}
        client = MlflowClient()
        _ensure_model(client, name)
        number = candidate.version
        if number is None:
            number = self._create(client, candidate, tags)
        else:
            self._rewrite(client, number, tags, candidate.card)
        self._require_still(promotion.former)
        if promotion.former is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(promotion.former))
        client.set_registered_model_alias(name, CHAMPION, str(number))
        reason = tags.get("override_reason")
        return [
            f"registered: {name} v{number}, candidate {candidate.name}, approved by "
            f"{tags['approver']}",
            f"gate: {'passed' if json.loads(tags['gate'])['passed'] else 'not passed'}"
            + (f", override reason: {reason}" if reason else ""),
            f"champion: v{number}, " + _before(promotion.former),
        ]

    def _create(self, client: MlflowClient, candidate: Candidate, tags: dict[str, str]) -> int:
        """Make one version, and wait for it.

        MLflow's client repeats a request whose answer was lost, and so makes two. Here it asks
        once, and if no answer comes, looks whether the version is there.
        """
        try:
            with _environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}):
                made = client.create_model_version(
                    self._model_name,
                    f"models:/{candidate.model_id}",
                    candidate.run_id,
                    tags=tags,
                    description=candidate.card,
                    model_id=candidate.model_id,
                )
            return int(made.version)
        except MlflowException:
            number = _version_of_model(self._model_name, candidate.run_id, str(candidate.model_id))
            if number is None:
                raise
            return number

    def _rewrite(
        self, client: MlflowClient, number: int, tags: dict[str, str], card: str | None
    ) -> None:
        """Make a version that is there already what a new one would be."""
        name, version = self._model_name, str(number)
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)
        before = client.get_model_version(name, version)
        if "override_reason" in before.tags and "override_reason" not in tags:
            client.delete_model_version_tag(name, version, "override_reason")
        client.update_model_version(name, version, description=card)

    def _roll_back(self, rollback: Rollback) -> list[str]:
        name = self._model_name
        if rollback.former == rollback.champion:
            return [
                f"the champion is already the previous version: {name} v{rollback.champion}; "
                "nothing is changed"
            ]
        client = MlflowClient()
        self._require_still(rollback.former)
        if rollback.former is not None:
            for key, value in {**rollback.tags, "rolled_back_at": _now()}.items():
                client.set_model_version_tag(name, str(rollback.former), key, value)
        client.set_registered_model_alias(name, CHAMPION, str(rollback.champion))
        reason = rollback.tags.get("rolled_back_reason")
        return [
            f"rolled back: {name}, ordered by {rollback.tags['rolled_back_by']}"
            + (f", reason: {reason}" if reason else ""),
            f"champion: v{rollback.champion}, " + _before(rollback.former),
        ]

    def _require_still(self, former: int | None) -> None:
        """Demand that the champion is still the one that the decision was made against."""
        champion = version_of(self._model_name, CHAMPION)
        now = int(champion.version) if champion else None
        if now != former:
            raise DatasetError(
                f"The champion of {self._model_name} is {f'v{now}' if now else 'none'} now, and "
                f"{f'it was v{former}' if former else 'there was none'} when this was decided: "
                "someone else has moved it. It is left alone. To decide again, run again."
            )

    def _describe(self) -> dict[str, Any]:
        return {"model_name": self._model_name}


def _version_of_model(model_name: str, run_id: str, model_id: str) -> int | None:
    """Return the first usable version made of a logged model; one that never got ready is none.

    Asked for by the name alone: Unity Catalog takes no other filter (mlflow 3.17,
    store/_unity_catalog/registry/uc_native_rest_store.py, and issue 12217), and finds without tags.
    """
    client, token = MlflowClient(), None
    own = {f"models:/{model_id}", model_id}
    numbers = []
    while True:
        try:
            page = client.search_model_versions(f"name='{model_name}'", page_token=token)
        except MlflowException as error:
            if _says_absent(error):
                return None
            raise
        for found in page:
            if found.run_id == run_id and found.status == "READY":
                version = client.get_model_version(model_name, found.version)
                if own & {version.source, version.model_id}:
                    numbers.append(int(version.version))
        if not (token := page.token):
            return min(numbers, default=None)


def _ensure_model(client: MlflowClient, name: str) -> None:
    """Make the registered model if it is missing; on Databricks the bundle has made it."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if not _says_absent(error):
            raise
        client.create_registered_model(name)


def _plain(version: ModelVersion | None) -> Version | None:
    return Version(int(version.version), dict(version.tags)) if version else None


def _before(former: int | None) -> str:
    return f"before it v{former}" if former is not None else "the first"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _utc(time: dt.datetime) -> dt.datetime:
    """MLflow writes times of UTC without saying so."""
    return time.replace(tzinfo=dt.UTC)


def _text_of(run: Run, file: str) -> str:
    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{file}"))


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Ask MLflow at the start of a run, when it costs nothing to give up soon.

    Raises:
        TrackingUnavailableError: it does not answer as it should.
    """
    retries = logging.getLogger("urllib3.connectionpool")  # warns of each try
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        with _environment(IMPATIENT):
            yield
    except MlflowException as error:
        raise TrackingUnavailableError(error) from error
    finally:
        retries.setLevel(level)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a while; MLflow's client reads them at each request."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _asking(what: str, advice: str) -> Iterator[None]:
    """Turn what MLflow's client raises into one message for the user."""
    try:
        yield
    except UNREACHED as error:
        raise DatasetError(f"{_answer(what, error)} {advice}") from error


def _answer(what: str, error: BaseException) -> str:
    """Say who was asked for what and what came, without the passwords of an address."""
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    server, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    asked = server if registry == server else f"{server} and the registry {registry}"
    said = f"Asked {asked} for {what}; what came: {str(cause).rstrip('.')}."
    return re.sub(r"//[^/@\s]*@", "//", said)
