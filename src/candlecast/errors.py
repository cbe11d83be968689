"""What can go wrong and a user can mend. Each error holds the facts and words itself.

A message says what was asked, what came and what to do.
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches


class CandlecastError(Exception):
    """Something that the user can mend: its message says what was asked, what came, what to do."""

    refuses = True
    """Whether, when it is about one of many tickers, nothing of the others is stored either."""
    patience: int | None = None
    """After how many in a row no further ticker is asked for; None: asking on does no harm."""


class SourceError(CandlecastError):
    """A ticker's sessions could not be had. The ticker is missing then; the others are kept."""

    refuses = False


class AnswerError(SourceError):
    """A source was asked and did not bring sessions. Its kinds follow.

    Attributes:
        source: who was asked, in words.
        ticker: the ticker asked for.
        start: the first session asked for; None: the first there is.
        end: the last session asked for; None: the last there is.
        attempts: how often it was asked for.
        cause: what came instead, in words.
    """

    advice = "Try again later."

    def __init__(
        self,
        source: str,
        ticker: str,
        start: dt.date | None,
        end: dt.date | None,
        attempts: int,
        cause: str,
    ):
        super().__init__(source, ticker, start, end, attempts, cause)
        self.source, self.ticker, self.start, self.end = source, ticker, start, end
        self.attempts, self.cause = attempts, cause

    def __str__(self) -> str:
        """Say what was asked, what came and what to do."""
        first, last = self.start or "the first", self.end or "the last"
        tries = "1 try" if self.attempts == 1 else f"{self.attempts} tries"
        return (
            f"asked {self.source} for {self.ticker}, sessions {first} to {last} ({tries}): "
            f"{self.cause}. {self.advice}"
        )


class UnknownTickerError(AnswerError):
    """The source does not know the ticker. Final: it is not asked for again.

    Attributes:
        known: names that may have been meant.
    """

    known: Collection[str] = ()

    @property
    def advice(self) -> str:  # type: ignore[override] # a constant of the other kinds
        """The nearest known name, if any."""
        others = {name.upper(): name for name in self.known if name != self.ticker}
        near = get_close_matches(self.ticker.upper(), others, n=1)
        return f"Did you mean {others[near[0]]}?" if near else "Look it up there and correct it."


class NoSessionsError(AnswerError):
    """The range holds no session that is over. Final: it is not asked for again."""

    advice = "Ask for a range that holds a session that is over."


class RateLimitedError(AnswerError):
    """The source had too many requests (HTTP 429), also at the last try."""

    patience = 1
    advice = "Wait an hour, then run again, for fewer tickers at a time."


class SourceUnavailableError(AnswerError):
    """No usable answer after the last try: time-out, reset, HTTP 5xx, HTML or half an answer."""

    patience = 3
    advice = "Check the network and the source's state, then run again."


class UnexpectedAnswerError(AnswerError):
    """The answer has another form than expected. Final: it is not asked for again."""

    refuses = True
    patience = 3
    advice = "Its answers changed, or the client that reads them did: look for a newer release."


class TooLittleHistoryError(CandlecastError):
    """The sessions are too few to window, split and validate."""

    def __init__(
        self,
        sessions: int,
        needed: int,
        window: int,
        purge: int,
        folds: int,
        test_fraction: float,
        min_training_sessions: int,
    ):
        self.sessions, self.needed = sessions, needed
        super().__init__(
            f"There are {sessions} session dates in all and {needed} are needed: {window} before "
            f"the first window, {test_fraction:.0%} of the rest for the test, a purge of {purge}, "
            f"and {folds} walk-forward folds, the first of which trains on at least "
            f"{min_training_sessions}. Nothing is stored. Ask for a longer range, or lower window, "
            "purge, folds or min_training_sessions."
        )


class MissingTickersError(CandlecastError):
    """Tickers that were asked for did not arrive; those that did are stored.

    Attributes:
        failed: why, by ticker.
    """

    def __init__(self, failed: Mapping[str, Exception], of: int):
        self.failed = dict(failed)
        arrived = of - len(failed)
        reasons: dict[str, list[str]] = {}
        for ticker, why in failed.items():
            reasons.setdefault(str(why), []).append(ticker)
        kept = f"What arrived ({arrived}) is stored" if arrived else "Nothing new is stored"
        super().__init__(
            f"{len(failed)} of {of} tickers did not arrive. {kept}, and what earlier runs stored "
            "stays. To go on, run again (these alone: --tags ingest --params "
            f'"tickers={" ".join(failed)}"), leave them out of tickers, or set '
            "allow_missing_tickers=true."
            + "".join(f"\n  {', '.join(names)}: {why}" for why, names in reasons.items())
        )


class RefusedError(CandlecastError):
    """What came for one or more tickers breaks a contract; nothing of the run is stored.

    Attributes:
        refused: the errors, one a ticker.
    """

    def __init__(self, refused: Sequence[Exception], of: int):
        self.refused = list(refused)
        super().__init__(
            f"The answers for {len(refused)} of {of} tickers are refused; nothing of this run is "
            "stored. To go on, leave these tickers out, or set allow_missing_tickers=true to store "
            "the others."
            + "".join("\n  " + str(error).replace("\n", "\n    ") for error in refused)
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
