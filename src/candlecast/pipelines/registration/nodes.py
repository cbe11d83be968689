"""Decisions on the champion. Nodes only decide; the dataset that a decision goes to carries it out.

See `candlecast.registry.entities` for the values.
"""

import json
from collections.abc import Mapping
from typing import Any

from candlecast.errors import RegistrationError
from candlecast.evaluation.gate import apply_gate
from candlecast.parameters import Gate
from candlecast.registry.entities import Aliases, Candidate, Promotion, Rollback
from candlecast.reporting.wording import gate_reasons

NOT_OLDER = ("prices", "train")
"""Tables that must not be older than those that the champion was trained on."""

TABLES = (*NOT_OLDER, "test")
"""Tables whose versions are tags of a registered version."""

LONGEST_TAG = 1000
"""Characters of a version's tag in Unity Catalog."""

NO_APPROVER = "no approver is named", "Name one: --params approver=<who>"
"""Cause and advice."""


def validate_candidate(candidate: Candidate, aliases: Aliases, git_commit: str | None) -> Candidate:
    """Demand that the candidate is complete, and not older than the champion.

    Args:
        candidate: what its run holds.
        aliases: of the champion, whose tags name its tables.
        git_commit: the commit that the candidate must have been made with; None: any.

    Returns:
        The candidate, unchanged.

    Raises:
        RegistrationError: its run did not finish, it has no model or no report, the report is
            of an earlier model, another commit made it, or its tables are older than those that
            the champion was trained on. Nothing is demanded of the champion itself.
    """
    if _is_champion(candidate, aliases):
        return candidate
    name = candidate.name
    run_again = f"Run it again from its start: kedro run --params candidate={name}"
    evaluate = f"Evaluate it: kedro run --tags evaluate --params candidate={name}"
    if candidate.status != "FINISHED":
        raise RegistrationError(name, f"its run is {candidate.status}, not FINISHED", run_again)
    if candidate.model_id is None:
        raise RegistrationError(name, "its run has no model", run_again)
    if candidate.card is None:
        raise RegistrationError(name, "its run has no report to read before approving", evaluate)
    if not candidate.is_reported:
        cause = f"its report is not of its model {candidate.model_id}, but of one trained earlier"
        raise RegistrationError(name, cause, evaluate)
    commit = candidate.tags["git_commit"]
    if git_commit not in (None, commit):
        raise RegistrationError(
            name,
            f"it was made with commit {commit}, and commit {git_commit} is requested",
            "Check out the commit that made it, or train a candidate with the new one.",
        )
    for table in NOT_OLDER:
        own = int(candidate.tags[f"version.{table}"])
        champions = int(aliases.champion_tags.get(f"version_{table}", own))
        if own < champions:
            raise RegistrationError(
                name,
                f"it was trained on {table} v{own}, older than v{champions} of the champion "
                f"(version {aliases.champion})",
                "Train a candidate on the current tables: kedro run --params candidate=<id>. "
                "If the tables were re-created, remove the alias champion first.",
            )
    return candidate


def reapply_gate(candidate: Candidate, aliases: Aliases, gate: Gate) -> dict[str, Any]:
    """Apply the current gate to the candidate's own metrics, against the current champion.

    Returns:
        See `candlecast.evaluation.gate.apply_gate`.
    """
    return apply_gate(candidate.metrics, gate, aliases.champion)


def promote_candidate(
    candidate: Candidate,
    aliases: Aliases,
    gate_decision: Mapping[str, Any],
    approver: str | None,
    override_reason: str | None,
) -> Promotion:
    """Decide that the candidate becomes champion.

    Args:
        candidate: a valid one.
        aliases: where they point to now.
        gate_decision: see `reapply_gate`.
        approver: who answers for it.
        override_reason: why it is registered although it failed the gate; None: only if it passed.

    Raises:
        RegistrationError: no approver is named, or the candidate failed the gate and no reason is
            given. Neither is needed if the candidate is the champion already.
    """
    if _is_champion(candidate, aliases):
        return Promotion(candidate, aliases.champion, {})
    if approver is None:
        raise RegistrationError(candidate.name, *NO_APPROVER)
    if not gate_decision["passed"] and override_reason is None:
        raise RegistrationError(
            candidate.name,
            "it failed the gate. " + " ".join(gate_reasons(gate_decision["reasons"])).rstrip("."),
            "To register it nevertheless, give the reason: --params "
            f"candidate={candidate.name},approver={approver},override_reason=<why>",
        )
    tags = {
        "candidate": candidate.name,
        "git_commit": candidate.tags["git_commit"],
        "candlecast": candidate.tags["candlecast"],
        "approver": approver,
        "gate": _as_tag(gate_decision),
        **{f"version_{table}": candidate.tags[f"version.{table}"] for table in TABLES},
        "window": str(candidate.window),
        "body": str(candidate.body),
    }
    if override_reason is not None:
        tags["override_reason"] = override_reason
    return Promotion(candidate, aliases.champion, tags)


def roll_back(aliases: Aliases, approver: str | None, override_reason: str | None) -> Rollback:
    """Decide that the version before the champion becomes champion again.

    Raises:
        RegistrationError: no approver is named, or there is no previous version.
    """
    if approver is None:
        raise RegistrationError(None, *NO_APPROVER)
    if aliases.previous is None:
        raise RegistrationError(
            None,
            "there is no previous version, as no champion has replaced another one yet",
            "Register a candidate: kedro run --pipelines registration",
        )
    tags = {"rolled_back_by": approver}
    if override_reason is not None:
        tags["rolled_back_reason"] = override_reason
    return Rollback(aliases.previous, aliases.champion, tags)


def _is_champion(candidate: Candidate, aliases: Aliases) -> bool:
    return candidate.version is not None and candidate.version == aliases.champion


def _as_tag(gate_decision: Mapping[str, Any]) -> str:
    """Write the decision as JSON, with fewer reasons if it does not fit into a tag."""
    reasons = list(gate_decision["reasons"])
    while len(text := json.dumps({**gate_decision, "reasons": reasons})) > LONGEST_TAG and reasons:
        reasons.pop()
    return text
