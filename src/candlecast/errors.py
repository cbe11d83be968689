"""Everything that can go wrong and that a user can fix.

Each error holds the facts and words its own message: what was requested, what happened, what to do.
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal


class CandlecastError(Exception):
    """Something that the user can fix."""


# Parameters and the environment


class ParameterError(CandlecastError):
    """Parameters are unknown, missing, of a wrong type or out of range.

    Attributes:
        faults: what is wrong with each, by its name (a group's as ``gate.threshold``).
    """

    def __init__(self, faults: Mapping[str, str]):
        self.faults = dict(faults)
        lines = [f"{name}: {fault}" for name, fault in faults.items()]
        heading = ["These parameters are not usable:"] if len(lines) > 1 else []
        super().__init__("\n  ".join([*heading, *lines]))


class LockedError(CandlecastError):
    """Another run is writing to the same data root."""

    def __init__(self, data_root: Path, holder: str):
        self.data_root, self.holder = data_root, holder
        super().__init__(
            f"Data root {data_root} is locked by {holder or 'an unknown process'}. Wait until it "
            "ends, or choose another folder: --params data_root=…"
        )


class IncompatibleRunError(CandlecastError):
    """A candidate or tables were made with something other than this run has.

    Attributes:
        subject: the candidate, tables, or both.
        differences: the recorded value and this run's, by name.
    """

    def __init__(self, subject: str, differences: Mapping[str, tuple[object, object]], fix: str):
        self.subject, self.differences = subject, dict(differences)
        recorded, now = (
            ", ".join(f"{name}={pair[side]}" for name, pair in differences.items())
            for side in (0, 1)
        )
        subject = subject[0].upper() + subject[1:]
        super().__init__(f"{subject}: made with {recorded}; this run has {now}. {fix}")


class DamageError(CandlecastError):
    """A file or folder is damaged, missing or not usable; `cure` is what to do."""

    def __init__(self, file: Path, problem: str, cure: str):
        self.file, self.problem, self.cure = file, problem, cure
        super().__init__(f"{file} {problem}. {cure}")


class MissingInputError(CandlecastError):
    """A run of a part of a pipeline reads what is not there; `command` is what to type instead."""

    def __init__(self, cause: str, command: str):
        self.cause, self.command = cause, command
        super().__init__(f"{cause}. Type: {command}")


class SparkUnavailableError(CandlecastError):
    """Spark can't start here."""

    def __init__(self, needed: str, found: str, fix: str):
        self.needed, self.found = needed, found
        super().__init__(f"Spark needs {needed}; found {found}. {fix}")


# Prices

SHOWN = 20
"""How many tickers have a line of their own in a message or in the log."""


def limited(texts: Sequence[str]) -> list[str]:
    """Return the first `SHOWN` texts, and one that counts the others.

    >>> limited([f"T{place}" for place in range(5000)])[-2:]
    ['T19', '… and 4,980 more']
    """
    others = len(texts) - SHOWN
    return [*texts[:SHOWN], *([f"… and {others:,} more"] if others > 0 else [])]


Reason = Literal[
    "unknown ticker", "no sessions", "rate limited", "unavailable", "unexpected answer"
]
"""Why a source did not return sessions. ``unavailable`` is a time-out, a reset, HTTP 5xx, HTML or
half an answer; ``rate limited`` is HTTP 429. Another attempt can help with these two only."""

_ADVICE: Mapping[Reason, str] = {
    "unknown ticker": "Look it up at the source and correct it.",
    "no sessions": "Request a range with at least one session that has closed.",
    "rate limited": "Wait an hour, then run again, with fewer tickers at a time.",
    "unavailable": "Check the network and the source's status, then run again.",
    "unexpected answer": "The source's answers or its client changed: look for a new release.",
}


def describe_range(start: dt.date | None, end: dt.date | None) -> str:
    """Word a range of requested sessions.

    >>> describe_range(dt.date(2020, 1, 1), None)
    'from 2020-01-01'
    """
    if start and end:
        return f"{start} to {end}"
    if start or end:
        return f"from {start}" if start else f"up to {end}"
    return "full history"


class SourceError(CandlecastError):
    """A source did not return the requested sessions of a ticker.

    Attributes:
        start, end: the first and the last requested session; None: as far as there are any.
        attempts: how often the ticker was requested.
        cause: what came instead.
    """

    def __init__(
        self,
        source: str,
        ticker: str,
        start: dt.date | None,
        end: dt.date | None,
        attempts: int,
        reason: Reason,
        cause: str,
        known: Collection[str] = (),
    ):
        self.source, self.ticker, self.start, self.end = source, ticker, start, end
        self.attempts, self.reason, self.cause = attempts, reason, cause
        advice = _ADVICE[reason]
        by_capitals = {name.upper(): name for name in known}
        near = get_close_matches(ticker.upper(), by_capitals, n=1)
        if reason == "unknown ticker" and near:
            advice = f"Did you mean {by_capitals[near[0]]}?"
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(
            f"{source}, {ticker}, {describe_range(start, end)}: {reason} ({cause}; {tries}). "
            f"{advice}"
        )


class TableError(CandlecastError):
    """A file or table of prices can't be used as it is, or is not there."""

    def __init__(self, table: str, problem: str, advice: str):
        self.table, self.problem = table, problem
        super().__init__(f"Prices {table}: {problem}. {advice}")


class ContractError(CandlecastError):
    """Sessions of a ticker break a rule, so they may not be stored.

    Attributes:
        rows: those that break the rule, a pandas frame; the message shows the first three.
    """

    reason = "broken rule"

    def __init__(self, ticker: str, rule: str, rows: Any, of: int, remedy: str):
        self.ticker, self.rule, self.rows = ticker, rule, rows
        shown = rows.drop(columns=["ticker", "source", "ingested_at"], errors="ignore").head(3)
        super().__init__(
            f"{ticker}: {len(rows)} of {of} rows of prices break the rule '{rule}', so they are "
            f"not stored. To fix this, {remedy}. The first:\n{shown.to_string(index=False)}"
        )


class IngestError(CandlecastError):
    """Requested tickers are missing.

    Attributes:
        failed: the reason, by missing ticker.
        of: how many tickers were requested.
        stored: how many of them this run stores.
    """

    def __init__(self, failed: Mapping[str, str], of: int, stored: int):
        self.failed, self.of, self.stored = dict(failed), of, stored
        tickers: dict[str, list[str]] = {}
        for ticker, reason in failed.items():
            tickers.setdefault(reason.replace("\n", "\n    "), []).append(ticker)
        reasons = limited([f"{', '.join(limited(names))}: {why}" for why, names in tickers.items()])
        only = f' (only these: --tags ingest --params "tickers={" ".join(failed)}")'
        super().__init__(
            f"{len(failed)} of {of} tickers are missing; this run stores {stored or 'none'}. What "
            "earlier runs stored is unchanged. To fix this, run again with the same --env"
            f"{only if len(failed) <= SHOWN else ''}, remove them from tickers, or set "
            "allow_missing_tickers=true." + "".join(f"\n  {reason}" for reason in reasons)
        )


class NotEnoughDataError(CandlecastError):
    """There is too little data for what was requested; `facts` has the message's numbers."""

    def __init__(self, message: str, **facts: object):
        self.facts = facts
        super().__init__(message)


class FeatureError(CandlecastError):
    """A feature is not registered or can't be computed; `cause` is why."""

    def __init__(self, name: str, cause: str):
        self.name, self.cause = name, cause
        super().__init__(f"Feature {name}: {cause}")


class LeakageError(CandlecastError):
    """The model could know what it predicts; `broken` is what the audit found, in words."""

    def __init__(self, broken: list[str]):
        self.broken = broken
        super().__init__(
            "\n  ".join(["The leakage audit failed, so nothing is trained:", *broken])
            + "\nCorrect the feature that is named (docs/extend.md). If none is, the code of the "
            "windows or of the split is wrong, or something else wrote the tables: run again from "
            "the start (kedro run)."
        )


# Models, tracking and registry


class PredictionError(CandlecastError):
    """A model can't predict rows: `columns` are missing, not finite or in the way."""

    def __init__(self, problem: str, columns: Sequence[str]):
        self.columns = list(columns)
        super().__init__(
            f"The model can't predict these rows: {problem}. Make windows as it was trained on."
        )


class TrackingUnavailableError(CandlecastError):
    """MLflow's tracking server or registry does not answer as it should."""

    def __init__(self, server: str, request: str, cause: str, advice: str):
        self.server, self.request, self.cause = server, request, cause
        super().__init__(f"Request to {server} failed ({request}): {cause}. {advice}")


class NoChampionError(CandlecastError):
    """No version of the registered model has been promoted yet."""

    def __init__(self, model_name: str):
        self.model_name = model_name
        super().__init__(
            f"There is no champion: no version of the registered model {model_name} has been "
            "promoted yet. With the same --env, train a candidate (kedro run --params "
            "candidate=<id>), read its report and approve it: kedro run --pipelines registration "
            '--params "candidate=<id>,approver=<who>"'
        )


class RegistrationError(CandlecastError):
    """A candidate must not become champion, or (no candidate) a rollback is not possible."""

    def __init__(self, candidate: str | None, cause: str, advice: str):
        self.candidate, self.cause = candidate, cause
        refused = f"Candidate {candidate} is not registered" if candidate else "No rollback"
        super().__init__(f"{refused}: {cause}. {advice}")


class ConcurrentWriteError(CandlecastError):
    """Other writers committed to a table first, at each of so many attempts."""

    def __init__(self, table: str, attempts: int):
        self.table, self.attempts = table, attempts
        super().__init__(
            f"Table {table} was not written: in each of {attempts} attempts another writer "
            "committed first. What is stored is whole. Run again when the other job has ended."
        )
