"""Reading and changing the model registry, by MLflow's client.

The alias ``champion`` is moved last and in one request: it points to the old or to the new version
whenever the process or the server dies. Every step can be repeated: a version that a killed
registration has made is used again.
"""

import contextlib
import datetime as dt
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import get_model_info
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from candlecast.errors import RegistrationError
from candlecast.io.tracking import (
    candidate_run,
    logged_model,
    train_again,
    translate_model_errors,
    unavailable,
)
from candlecast.names import CHAMPION, PREVIOUS
from candlecast.registry.entities import Aliases, Candidate, Promotion, Rollback

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
    """Return whether something does not exist: each registry has its own codes for that."""
    answer = error.json if isinstance(error, RestException) else {}
    code = str(answer.get("error_code", error.error_code))
    missing = code.endswith(("DOES_NOT_EXIST", "NOT_FOUND"))
    return missing and code != ErrorCode.Name(ENDPOINT_NOT_FOUND)  # the wrong server


def read_aliases(model_name: str) -> Aliases:
    """Return the versions that the aliases point to."""
    champion, previous = (find_version(model_name, alias) for alias in (CHAMPION, PREVIOUS))
    return Aliases(
        champion=int(champion.version) if champion else None,
        previous=int(previous.version) if previous else None,
        champion_tags=dict(champion.tags) if champion else {},
    )


def read_candidate(name: str, model_name: str) -> Candidate:
    """Return what the run of a candidate holds, and the version that its model has, if any.

    Raises:
        DatasetError: there is no such candidate.
    """
    run = candidate_run(name)
    client, run_id = MlflowClient(), run.info.run_id
    files = {file.path for file in client.list_artifacts(run_id)}
    card, report, metrics = None, "", {}
    if {"report.html", "model_card.md"} <= files:
        card = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/model_card.md")
        report = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html")
    if "metrics.json" in files:
        metrics = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/metrics.json")
    candidate = Candidate(
        name=name,
        run_id=run_id,
        status=run.info.status,
        tags=dict(run.data.tags),
        metrics=metrics,
        card=card,
    )
    if (logged := logged_model(run_id)) is None:
        return candidate
    with translate_model_errors(lambda: logged.artifact_location, train_again(name)):
        facts = get_model_info(logged.model_uri).metadata or {}
    is_named = logged.model_id in report and logged.model_id in str(card)
    return replace(
        candidate,
        model_id=logged.model_id,
        window=facts["window"],
        body=facts["body"],
        is_reported=is_named and bool(logged.metrics),
        version=_find_version_of(model_name, run_id, logged.model_id),
    )


def _find_version_of(model_name: str, run_id: str, model_id: str) -> int | None:
    """Return the first version made of a logged model, if it got ready.

    The search is by name alone: Unity Catalog takes no other filter (mlflow 3.17,
    store/_unity_catalog/registry/uc_native_rest_store.py, and issue 12217). The versions that it
    finds do not name their models.
    """
    try:
        found = mlflow.search_model_versions(filter_string=f"name='{model_name}'")
    except MlflowException as error:
        if _is_not_found(error):
            return None
        raise
    ready = (each for each in found if each.run_id == run_id and each.status == "READY")
    for number in sorted(int(each.version) for each in ready):
        version = MlflowClient().get_model_version(model_name, str(number))
        if version.model_id == model_id or version.source == f"models:/{model_id}":
            return number
    return None


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
    number = candidate.version
    if number is None:
        _ensure_model(client, model_name)
        number = _create_version(client, model_name, candidate, tags)
    else:
        _rewrite_version(client, model_name, number, tags, candidate.card)
    _show_version(client, model_name, number, candidate)
    _require_champion(model_name, former, candidate.name)
    if former is not None:
        client.set_registered_model_alias(model_name, PREVIOUS, str(former))
    client.set_registered_model_alias(model_name, CHAMPION, str(number))
    gate = "passed" if json.loads(tags["gate"])["passed"] else "not passed"
    done = f"registered: {model_name} v{number}, candidate {candidate.name}, approved by "
    done += f"{tags['approver']}; gate {gate}"
    if "override_reason" in tags:
        done += f", override reason: {tags['override_reason']}"
    _log_champion(done, number, former)


def roll_back(model_name: str, rollback: Rollback) -> None:
    """Make the previous version champion again, and tag the one that it replaces.

    Raises:
        RegistrationError: the champion has changed since the decision; no alias is moved.
    """
    number, former = rollback.previous, rollback.former
    if former == number:
        logger.info("the champion is already the previous version: %s v%d", model_name, number)
        return
    client = MlflowClient()
    _require_champion(model_name, former)
    if former is not None:
        for key, value in {**rollback.tags, "rolled_back_at": _now()}.items():
            client.set_model_version_tag(model_name, str(former), key, value)
    client.set_registered_model_alias(model_name, CHAMPION, str(number))
    done = f"rolled back: {model_name}, requested by {rollback.tags['rolled_back_by']}"
    if "rolled_back_reason" in rollback.tags:
        done += f", reason: {rollback.tags['rolled_back_reason']}"
    _log_champion(done, number, former)


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
    sends one request; if no answer comes, the version may be there all the same.
    """
    try:
        with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
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
    """Give an existing version the tags and the text of a new one."""
    version = str(number)
    for key, value in tags.items():
        client.set_model_version_tag(model_name, version, key, value)
    before = client.get_model_version(model_name, version).tags
    if "override_reason" in before and "override_reason" not in tags:
        client.delete_model_version_tag(model_name, version, "override_reason")
    client.update_model_version(model_name, version, description=card)


def _show_version(client: MlflowClient, name: str, number: int, candidate: Candidate) -> None:
    """Show a version on the pages of the candidate's run and model, as MLflow's own function."""
    client.set_tag(candidate.run_id, "registered version", str(number))
    model = client.get_logged_model(str(candidate.model_id))
    versions = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    if (version := {"name": name, "version": str(number)}) not in versions:
        tags = {MLFLOW_MODEL_VERSIONS: json.dumps([*versions, version])}
        client.set_logged_model_tags(model.model_id, tags)


def _require_champion(model_name: str, former: int | None, candidate: str | None = None) -> None:
    """Demand that the champion is still the one that the decision was made on."""
    current = read_aliases(model_name).champion
    if current != former:
        before, now = (f"v{number}" if number else "none" for number in (former, current))
        raise RegistrationError(
            candidate,
            f"the champion of {model_name} has changed from {before} to {now} since the decision; "
            "no alias was moved",
            "Run this again to decide on the new champion.",
        )


def _log_champion(done: str, number: int, former: int | None) -> None:
    logger.info("%s", done)
    previous = "the first" if former is None else f"previous: v{former}"
    logger.info("champion: v%d (%s)", number, previous)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


# --- Requests -------------------------------------------------------------------------------------


@contextlib.contextmanager
def fail_fast() -> Iterator[None]:
    """Give up soon, while nothing can be lost yet: after 5 s if no server is there.

    Raises:
        TrackingUnavailableError: MLflow does not answer as it should.
    """
    retries = logging.getLogger("urllib3.connectionpool")  # warns of each try
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="2", MLFLOW_HTTP_REQUEST_TIMEOUT="10"):
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
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for a while: MLflow's client reads its own at each request."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
