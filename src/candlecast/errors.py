"""What can go wrong with a source of prices.

Each error holds the facts and words itself: asked, came, to do.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import pandas as pd


class CandlecastError(Exception):
    """Something that the user can mend: its message says what was asked, what came, what to do."""


class SourceError(CandlecastError):
    """A ticker's sessions could not be had."""

    stops_all = False
    """Whether asking for further tickers would make it worse."""


class UnknownTickerError(SourceError):
    """The source does not know the ticker.

    Final: asking again does not help.
    """

    def __init__(self, ticker: str, source: str, known: Sequence[str]):
        self.ticker = ticker
        near = get_close_matches(ticker, known, n=1)
        hint = (
            f"Did you mean {near[0]}?" if near else f"It has {', '.join(known)}." if known else ""
        )
        super().__init__(f"{ticker}: {source} does not know this ticker. {hint}".strip())


class NoSessionsError(SourceError):
    """The source knows the ticker but has no session in the range.

    Final.
    """

    def __init__(
        self, ticker: str, start: pd.Timestamp | None, end: pd.Timestamp | None, there: str
    ):
        self.ticker, self.start, self.end = ticker, start, end
        begin = f"{start:%Y-%m-%d}" if start is not None else "the first"
        stop = f"{end:%Y-%m-%d}" if end is not None else "the last"
        super().__init__(
            f"{ticker}: no sessions between {begin} and {stop}; {there}. Ask for a wider range."
        )


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
            f"There are {sessions} sessions in all and {needed} are needed: {window} before the first window, "
            f"{test_fraction:.0%} of the rest for the test, a purge of {purge}, and {folds} walk-forward folds of which "
            f"the first trains on {min_training_sessions}. Ask for an earlier start or more tickers, or lower window, "
            "purge, folds or min_training_sessions."
        )


class MissingTickersError(CandlecastError):
    """Tickers that were asked for did not arrive; those that did are stored."""

    def __init__(self, failed: Mapping[str, str], of: int):
        self.failed = dict(failed)
        reasons = "\n  ".join(failed.values())
        kept = of - len(failed)
        super().__init__(
            f"{len(failed)} of {of} tickers did not arrive ({', '.join(failed)}); {kept} are stored. To go on, ask "
            f"again, leave them out of tickers, or set allow_missing_tickers=true.\n  {reasons}"
        )


class RefusedError(CandlecastError):
    """The prices of one or more tickers break a contract; nothing of the run is stored."""

    def __init__(self, refused: Sequence[Exception]):
        self.refused = list(refused)
        super().__init__("\n".join(str(error) for error in refused))
