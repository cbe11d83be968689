"""What can go wrong and a user can fix. Each error holds the facts and words itself.

A message says what was requested, what came and what to do.
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal


class CandlecastError(Exception):
    """Something that the user can fix."""


def describe_range(start: dt.date | str | None, end: dt.date | str | None) -> str:
    """Word a range of requested sessions.

    >>> describe_range("2020-01-01", None)
    'from 2020-01-01'
    """
    if start and end:
        return f"{start} to {end}"
    if start or end:
        return f"from {start}" if start else f"up to {end}"
    return "full history"


Reason = Literal[
    "unknown ticker", "no sessions", "rate limited", "unavailable", "unexpected answer"
]


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
    """What is recorded of a candidate or a table does not fit this run.

    Attributes:
        subject: what was made before: a candidate, or a table.
        differences: the recorded value and this run's, by name.
    """

    def __init__(self, subject: str, differences: Mapping[str, tuple[object, object]], fix: str):
        self.subject, self.differences = subject, dict(differences)
        recorded, now = (
            ", ".join(f"{name}={pair[side]}" for name, pair in differences.items())
            for side in (0, 1)
        )
        super().__init__(f"{subject} was made with {recorded}; this run has {now}. {fix}")


class SparkUnavailableError(CandlecastError):
    """Spark can't start here."""

    def __init__(self, needed: str, found: str, fix: str):
        self.needed, self.found = needed, found
        super().__init__(f"Spark needs {needed}; found {found}. {fix}")


class SourceError(CandlecastError):
    """A source did not return sessions of a ticker.

    Attributes:
        source: the source's name.
        ticker: the requested ticker.
        start: the first requested session; None: the first there is.
        end: the last requested session; None: the last there is.
        attempts: how often the source was asked.
        reason: what kind of failure it is. ``unavailable`` is a time-out, a reset, HTTP 5xx, HTML
            or half an answer; ``rate limited`` is HTTP 429. The other kinds are final.
        cause: what came instead.
    """

    ADVICE: Mapping[Reason, str] = {
        "unknown ticker": "Look it up at the source and correct it.",
        "no sessions": "Request a range with at least one session that has closed.",
        "rate limited": "Wait an hour, then run again, with fewer tickers at a time.",
        "unavailable": "Check the network and the source's status, then run again.",
        "unexpected answer": "The source's answers or its client changed: look for a new release.",
    }

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
        advice = self.ADVICE[reason]
        others = {name.upper(): name for name in known}
        near = get_close_matches(ticker.upper(), others, n=1)
        if reason == "unknown ticker" and near:
            advice = f"Did you mean {others[near[0]]}?"
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(
            f"{source}, {ticker}, {describe_range(start, end)}: {reason} ({cause}; {tries}). "
            f"{advice}"
        )


class ContractError(CandlecastError):
    """Sessions of a ticker break a rule, so they may not be stored.

    Attributes:
        ticker: whose sessions they are.
        rule: the rule that they break.
        rows: those that break it, a pandas frame; the message shows the first three.
    """

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
        failed: the missing tickers, each with the reason.
        of: how many tickers were requested.
        stored: how many of them are stored.
    """

    def __init__(self, failed: Mapping[str, str], of: int, stored: int):
        self.failed, self.of, self.stored = dict(failed), of, stored
        tickers: dict[str, list[str]] = {}
        for ticker, reason in failed.items():
            tickers.setdefault(reason.replace("\n", "\n    "), []).append(ticker)
        super().__init__(
            f"{len(failed)} of {of} tickers are missing; this run stores {stored or 'none'}. What "
            "earlier runs stored is unchanged. To fix this, run again (only these: --tags ingest "
            f'--params "tickers={" ".join(failed)}"), remove them from tickers, or set '
            "allow_missing_tickers=true."
            + "".join(f"\n  {', '.join(names)}: {why}" for why, names in tickers.items())
        )


class LeakageError(CandlecastError):
    """Train and test are not separate; what is trained on them is worth nothing.

    Attributes:
        broken: what the audit found, in words.
    """

    def __init__(self, broken: list[str]):
        self.broken = broken
        super().__init__(
            f"The leakage audit failed, so nothing is trained: {'; '.join(broken)}. The code of "
            "the windows or of the split is wrong, or something else wrote the tables: run again "
            "from the start (kedro run)."
        )


class TrackingUnavailableError(CandlecastError):
    """MLflow's tracking server or registry does not answer as it should.

    Attributes:
        server: its address, and that of the registry where it has one of its own.
        request: what was requested.
        cause: what came instead.
    """

    def __init__(self, server: str, request: str, cause: str, advice: str):
        self.server, self.request, self.cause = server, request, cause
        super().__init__(f"Request to {server} failed ({request}): {cause}. {advice}")


class NoChampionError(CandlecastError):
    """No version of the registered model has been promoted yet.

    Attributes:
        model_name: of the registered model.
    """

    def __init__(self, model_name: str):
        self.model_name = model_name
        super().__init__(
            f"There is no champion: no version of the registered model {model_name} has been "
            "promoted yet. Train a candidate (kedro run --params candidate=<id>), read its report "
            "and approve it: kedro run --pipelines registration --params "
            '"candidate=<id>,approver=<who>"'
        )


class RegistrationError(CandlecastError):
    """A candidate must not become champion, or the champion must not be rolled back.

    Attributes:
        candidate: its id; None: a rollback.
        cause: why not.
    """

    def __init__(self, candidate: str | None, cause: str, advice: str):
        self.candidate, self.cause = candidate, cause
        refused = f"Candidate {candidate} is not registered" if candidate else "No rollback"
        super().__init__(f"{refused}: {cause}. {advice}")


class ConcurrentWriteError(CandlecastError):
    """Other writers committed to a table first.

    Attributes:
        table: its folder or name.
        attempts: how often the write was tried.
    """

    def __init__(self, table: str, attempts: int):
        self.table, self.attempts = table, attempts
        super().__init__(
            f"Table {table} was not written: another writer committed first, in {attempts} of "
            f"{attempts} attempts. What is stored is whole. Run this again when the other job has "
            "ended."
        )


class NotEnoughDataError(CandlecastError):
    """There is too little data for what was requested.

    Attributes:
        facts: what the message names.
    """

    def __init__(self, message: str, **facts: object):
        super().__init__(message)
        self.facts = facts


class PredictionError(CandlecastError):
    """Rows that a model can't predict; nothing is filled in for them.

    Attributes:
        columns: that are missing, not finite or in the way.
    """

    def __init__(self, problem: str, columns: Sequence[str]):
        super().__init__(
            f"The model can't predict these rows: {problem}. Make windows as it was trained on."
        )
        self.columns = list(columns)
