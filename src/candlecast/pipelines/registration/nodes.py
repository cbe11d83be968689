"""Whether a candidate may become champion, and what is to be done then; of the effects nothing."""

import json
from collections.abc import Mapping
from typing import Any

from candlecast.errors import CandlecastError
from candlecast.evaluation.gate import apply_gate
from candlecast.parameters import Gate
from candlecast.registry.entities import Aliases, Candidate, Promotion, Rollback
from candlecast.reporting.wording import gate_reasons

TABLES = ("prices", "train", "test")
"""The tables whose versions a registered version tells; the first two must not be older."""

LONGEST = 1000
"""Characters that a version's tag may hold in Unity Catalog."""


class RegistrationError(CandlecastError):
    """A candidate may not become champion.

    Attributes:
        candidate: its id.
        cause: why, in words.
        advice: what to do, in words.
    """

    def __init__(self, candidate: str, cause: str, advice: str):
        self.candidate, self.cause, self.advice = candidate, cause, advice
        super().__init__(f"Candidate {candidate} is not registered: {cause}. {advice}")


class NoApproverError(CandlecastError):
    """Nobody answers for what was ordered."""

    def __init__(self, order: str):
        super().__init__(
            f"{order} needs the name of who answers for it. Say it with --params approver=<who>"
        )


class NoPreviousError(CandlecastError):
    """There is no version to go back to."""

    def __init__(self) -> None:
        super().__init__(
            "There is no version to go back to: no champion has followed another one yet. What to "
            "do: register a candidate (kedro run --pipelines registration)."
        )


def validate_candidate(candidate: Candidate, aliases: Aliases, git_commit: str | None) -> Candidate:
    """Demand that what is to be approved is whole, and not older than the champion.

    Args:
        candidate: what its run holds.
        aliases: where the champion's tags are known from.
        git_commit: the commit that the candidate must have been made with; None: any.

    Returns:
        The candidate, as it came.

    Raises:
        RegistrationError: its run did not finish, it has no model or no report, the report is
            older than the model, another commit made it, or its tables are older than those that
            the champion was trained on.
    """
    if _is_champion(candidate, aliases):
        return candidate
    again = f"Run it whole: kedro run --params candidate={candidate.name}"
    if candidate.status != "FINISHED":
        raise RegistrationError(
            candidate.name, f"its run is {candidate.status} and not FINISHED", again
        )
    if candidate.model_id is None or candidate.trained_at is None:
        raise RegistrationError(candidate.name, "its run has no model", again)
    evaluate = f"Evaluate it: kedro run --tags evaluate --params candidate={candidate.name}"
    if not candidate.has_report or candidate.card is None or candidate.evaluated_at is None:
        raise RegistrationError(
            candidate.name, "it has no report that anyone could have read", evaluate
        )
    if candidate.evaluated_at < candidate.trained_at:
        raise RegistrationError(
            candidate.name,
            f"its report is of {candidate.evaluated_at:%Y-%m-%d %H:%M:%S} UTC, and its model was "
            f"trained again at {candidate.trained_at:%Y-%m-%d %H:%M:%S} UTC",
            evaluate,
        )
    commit = candidate.tags.get("git_commit", "unknown")
    if git_commit is not None and git_commit != commit:
        raise RegistrationError(
            candidate.name,
            f"commit {commit} made it, and commit {git_commit} is asked for",
            "Check out the commit that made it, or train a candidate with the new one.",
        )
    _require_new_tables(candidate, aliases)
    return candidate


def _require_new_tables(candidate: Candidate, aliases: Aliases) -> None:
    """Demand that no table is older than the one that the champion was trained on."""
    if aliases.champion is None:
        return
    for table in ("prices", "train"):
        own = int(candidate.tags.get(f"version.{table}", -1))
        champions = int(aliases.champion.tags.get(f"version_{table}", -1))
        if own < champions:
            raise RegistrationError(
                candidate.name,
                f"it is stale: it was trained on {table} v{own}, and the champion (version "
                f"{aliases.champion.number}) on v{champions}",
                "Train a candidate on the tables of now: kedro run --params candidate=<id>. Were "
                "the tables dropped and made again, first take the alias champion away.",
            )


def apply_gate_again(candidate: Candidate, aliases: Aliases, gate: Gate) -> dict[str, Any]:
    """Judge the candidate's own metrics by the gate of now, against the champion of now.

    Returns:
        ``passed`` (bool), ``reasons`` (codes and numbers), and the gate's ``metric`` and
        ``threshold``.
    """
    champion = aliases.champion.number if aliases.champion else None
    decision = apply_gate(candidate.metrics, gate, champion)
    return {**decision, "metric": gate.metric, "threshold": gate.threshold}


def promote_candidate(
    candidate: Candidate,
    aliases: Aliases,
    gate_decision: Mapping[str, Any],
    approver: str | None,
    override_reason: str | None,
) -> Promotion:
    """Decide that the candidate is to become champion, on whose word, and why.

    Args:
        candidate: fit to be approved.
        aliases: where they point to now.
        gate_decision: the gate's.
        approver: who answers for it.
        override_reason: why it is registered against the gate; None: only if it passed.

    Returns:
        What is to be done: nothing, when the candidate is champion already.

    Raises:
        NoApproverError: nobody answers for it.
        RegistrationError: the gate has not let it pass, and no reason is given.
    """
    former = aliases.champion.number if aliases.champion else None
    if _is_champion(candidate, aliases):
        return Promotion(candidate, former, {})
    if approver is None:
        raise NoApproverError(f"Registering candidate {candidate.name}")
    if not gate_decision["passed"] and override_reason is None:
        raise RegistrationError(
            candidate.name,
            "the gate has not let it pass. "
            + " ".join(gate_reasons(gate_decision["reasons"])).removesuffix("."),
            "Whoever registers it all the same must say why: --params "
            f"candidate={candidate.name},approver={approver},override_reason=<why>",
        )
    tags = {
        "candidate": candidate.name,
        "git_commit": candidate.tags.get("git_commit", "unknown"),
        "candlecast": candidate.tags.get("candlecast", "unknown"),
        "approver": approver,
        "gate": _as_json(gate_decision),
        **{
            f"version_{table}": candidate.tags[f"version.{table}"]
            for table in TABLES
            if f"version.{table}" in candidate.tags
        },
        "window": str(candidate.window),
        "body": str(candidate.body),
    }
    if override_reason is not None:
        tags["override_reason"] = override_reason
    return Promotion(candidate, former, tags)


def roll_back(aliases: Aliases, approver: str | None, override_reason: str | None) -> Rollback:
    """Decide that the version before the champion is to be champion again, on whose word, and why.

    Returns:
        What is to be done: nothing, when the champion is that version already.

    Raises:
        NoApproverError: nobody answers for it.
        NoPreviousError: there is no version before the champion.
    """
    if approver is None:
        raise NoApproverError("A rollback")
    if aliases.previous is None:
        raise NoPreviousError
    tags = {"rolled_back_by": approver}
    if override_reason is not None:
        tags["rolled_back_reason"] = override_reason
    former = aliases.champion.number if aliases.champion else None
    return Rollback(aliases.previous.number, former, tags)


def _is_champion(candidate: Candidate, aliases: Aliases) -> bool:
    return aliases.champion is not None and aliases.champion.number == candidate.version


def _as_json(gate_decision: Mapping[str, Any]) -> str:
    """Write the gate_decision so that it fits into a tag: with fewer reasons if need be."""
    reasons = list(gate_decision["reasons"])
    while len(text := json.dumps({**gate_decision, "reasons": reasons})) > LONGEST and reasons:
        reasons.pop()
    return text
