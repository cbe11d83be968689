"""Reading and changing the model registry, by MLflow's client.

The alias ``champion`` is moved last and in one request, so it points to the old version or to the
new one whenever the process or the server dies. Each step can be repeated: a version that a killed
registration has made is used, a second one is never made.
"""

import contextlib
import datetime as dt
import json
import logging
import os
from collections.abc import Iterator

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import get_model_info
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.tracking import MlflowClient

from candlecast.errors import RegistrationError
from candlecast.io.tracking import candidate_run, logged_model, unavailable
from candlecast.names import CHAMPION, PREVIOUS
from candlecast.registry.entities import Candidate, Promotion, Rollback

logger = logging.getLogger(__name__)


# --- Reading --------------------------------------------------------------------------------------


def find_version(model_name: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points to; None when there is no such alias, or model."""
    client = MlflowClient()
    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if _is_not_found(error):
            return None
        # The open-source registry has this code for a missing alias, and for wrong requests.
        refused = error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE)
        if refused and alias not in client.get_registered_model(model_name).aliases:
            return None
        raise


def _is_not_found(error: MlflowException) -> bool:
    """Whether an error means that something does not exist: each registry has its own codes."""
    answer = error.json if isinstance(error, RestException) else {}
    code = str(answer.get("error_code", error.error_code))
    missing = code.endswith(("DOES_NOT_EXIST", "NOT_FOUND"))
    return missing and code != ErrorCode.Name(ENDPOINT_NOT_FOUND)  # the wrong server


def read_candidate(name: str, model_name: str) -> Candidate:
    """Return what the run of a candidate holds.

    Args:
        name: the id that it was trained and reported as.
        model_name: of the registered model that may have a version of it.

    Raises:
        DatasetError: there is no such candidate.
    """
    run = candidate_run(name)
    client, run_id = MlflowClient(), run.info.run_id
    files = {file.path for file in client.list_artifacts(run_id)}
    gate = client.get_metric_history(run_id, "gate.passed")
    logged = logged_model(run_id)
    # Times are of the model's own file and of the metrics, both by the clock of the run; the
    # server may have another.
    model = get_model_info(logged.model_uri) if logged else None
    facts = (model and model.metadata) or {}
    card = f"{run.info.artifact_uri}/model_card.md"
    return Candidate(
        name=name,
        run_id=run_id,
        status=run.info.status,
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        has_report="report.html" in files,
        card=mlflow.artifacts.load_text(card) if "model_card.md" in files else None,
        model_id=logged.model_id if logged else None,
        window=facts.get("window"),
        body=facts.get("body"),
        trained_at=dt.datetime.fromisoformat(model.utc_time_created).replace(tzinfo=dt.UTC)
        if model
        else None,
        evaluated_at=dt.datetime.fromtimestamp(gate[-1].timestamp / 1000, dt.UTC) if gate else None,
        version=_find_version_of(model_name, run_id, logged.model_id) if logged else None,
    )


def _find_version_of(model_name: str, run_id: str, model_id: str) -> int | None:
    """Return the first usable version made of a logged model; one that never got ready is none.

    Searched by the name alone: Unity Catalog takes no other filter (mlflow 3.17,
    store/_unity_catalog/registry/uc_native_rest_store.py, and issue 12217), and finds without tags.
    """
    client, token = MlflowClient(), None
    sources = {f"models:/{model_id}", model_id}
    numbers = []
    while True:
        try:
            page = client.search_model_versions(f"name='{model_name}'", page_token=token)
        except MlflowException as error:
            if _is_not_found(error):
                return None
            raise
        for found in page:
            if found.run_id == run_id and found.status == "READY":
                version = client.get_model_version(model_name, found.version)
                if sources & {version.source, version.model_id}:
                    numbers.append(int(version.version))
        if not (token := page.token):
            return min(numbers, default=None)


# --- Changing -------------------------------------------------------------------------------------


def promote(model_name: str, promotion: Promotion) -> None:
    """Register a candidate and make it champion; the former champion becomes ``previous``.

    Raises:
        RegistrationError: the champion has changed since the decision; no alias is moved.
    """
    candidate, former = promotion.candidate, promotion.former
    if former is not None and former == candidate.version:
        logger.info("already champion: %s v%d, candidate %s", model_name, former, candidate.name)
        return
    client = MlflowClient()
    tags = {**promotion.tags, "promoted_at": _now()}
    _ensure_model(client, model_name)
    if candidate.version is None:
        number = _create_version(client, model_name, candidate, tags)
    else:
        number = candidate.version
        _rewrite_version(client, model_name, number, tags, candidate.card)
    _require_champion(model_name, former, candidate.name)
    if former is not None:
        client.set_registered_model_alias(model_name, PREVIOUS, str(former))
    client.set_registered_model_alias(model_name, CHAMPION, str(number))
    logger.info(
        "registered: %s v%d, candidate %s, approved by %s; gate %s%s",
        *(model_name, number, candidate.name, tags["approver"]),
        "passed" if json.loads(tags["gate"])["passed"] else "not passed",
        f", override reason: {tags['override_reason']}" if "override_reason" in tags else "",
    )
    _log_champion(number, former)


def roll_back(model_name: str, rollback: Rollback) -> None:
    """Make the previous version champion again, and tag the one that it replaces.

    Raises:
        RegistrationError: the champion has changed since the decision; no alias is moved.
    """
    number, former, tags = rollback.champion, rollback.former, rollback.tags
    if former == number:
        logger.info("the champion is already the previous version: %s v%d", model_name, number)
        return
    client = MlflowClient()
    _require_champion(model_name, former)
    if former is not None:
        for key, value in {**tags, "rolled_back_at": _now()}.items():
            client.set_model_version_tag(model_name, str(former), key, value)
    client.set_registered_model_alias(model_name, CHAMPION, str(number))
    logger.info(
        "rolled back: %s, requested by %s%s",
        *(model_name, tags["rolled_back_by"]),
        f", reason: {tags['rolled_back_reason']}" if "rolled_back_reason" in tags else "",
    )
    _log_champion(number, former)


def _ensure_model(client: MlflowClient, name: str) -> None:
    """Make the registered model if it is missing; on Databricks the bundle has made it."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if not _is_not_found(error):
            raise
        client.create_registered_model(name)


def _create_version(
    client: MlflowClient, model_name: str, candidate: Candidate, tags: dict[str, str]
) -> int:
    """Make one version, and wait for it.

    MLflow's client repeats a request whose answer was lost, and so makes two versions. Here it
    sends one request, and if no answer comes, looks whether the version is there.
    """
    try:
        with _http(retries=0):
            version = client.create_model_version(
                model_name,
                f"models:/{candidate.model_id}",
                candidate.run_id,
                tags=tags,
                description=candidate.card,
                model_id=candidate.model_id,
            )
        return int(version.version)
    except MlflowException:
        number = _find_version_of(model_name, candidate.run_id, str(candidate.model_id))
        if number is None:
            raise
        return number


def _rewrite_version(
    client: MlflowClient, model_name: str, number: int, tags: dict[str, str], card: str | None
) -> None:
    """Give a version that is there already the tags and the text of a new one."""
    version = str(number)
    for key, value in tags.items():
        client.set_model_version_tag(model_name, version, key, value)
    before = client.get_model_version(model_name, version).tags
    if "override_reason" in before and "override_reason" not in tags:
        client.delete_model_version_tag(model_name, version, "override_reason")
    client.update_model_version(model_name, version, description=card)


def _require_champion(model_name: str, former: int | None, candidate: str | None = None) -> None:
    """Demand that the champion is still the one that the decision was made on."""
    champion = find_version(model_name, CHAMPION)
    current = int(champion.version) if champion else None
    if current != former:
        before, now = (f"v{number}" if number else "none" for number in (former, current))
        raise RegistrationError(
            candidate,
            f"the champion of {model_name} changed from {before} to {now} meanwhile; no alias was "
            "moved",
            "Run this again to decide on the new champion.",
        )


def _log_champion(number: int, former: int | None) -> None:
    previous = "the first" if former is None else f"previous: v{former}"
    logger.info("champion: v%d (%s)", number, previous)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


# --- Requests -------------------------------------------------------------------------------------


@contextlib.contextmanager
def fail_fast() -> Iterator[None]:
    """Give up soon where nothing can be lost yet: 5 s for a server that is not there.

    Raises:
        TrackingUnavailableError: MLflow does not answer as it should.
    """
    retries = logging.getLogger("urllib3.connectionpool")  # warns of each try
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        with _http(retries=2, timeout=10):
            yield
    except MlflowException as error:
        raise unavailable(
            "experiment, runs and registered model",
            error,
            "Nothing was read or written. Check that it runs and that its address is right "
            "(server.mlflow_tracking_uri in conf/<env>/mlflow.yml; for --env databricks "
            "MLFLOW_TRACKING_URI), then run again.",
        ) from error
    finally:
        retries.setLevel(level)


@contextlib.contextmanager
def _http(**settings: int) -> Iterator[None]:
    """Set ``retries`` and ``timeout`` (s) of MLflow's client, which reads variables per request."""
    names = {"retries": "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "timeout": "MLFLOW_HTTP_REQUEST_TIMEOUT"}
    before = {names[key]: os.environ.get(names[key]) for key in settings}
    os.environ.update({names[key]: str(value) for key, value in settings.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
