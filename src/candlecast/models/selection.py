"""Walk-forward validation inside the training period."""

from collections.abc import Iterator

import pandas as pd
from sklearn.model_selection import TimeSeriesSplit

from candlecast.errors import CandlecastError
from candlecast.features.split import purge_before
from candlecast.models.forests import in_order


def walk_forward(
    frame: pd.DataFrame, folds: int, purge: int
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Make expanding walk-forward folds on the distinct session dates, mapped back to rows.

    scikit-learn's ``gap`` would count rows, wrong with several tickers; the purge here is that of
    the split.

    >>> days = pd.DataFrame({"ticker": "A", "session": range(1, 8)})
    >>> for past, scored in walk_forward(days, folds=2, purge=1):
    ...     print(past["session"].tolist(), scored["session"].tolist())
    [1, 2] [4, 5]
    [1, 2, 3, 4] [6, 7]

    Args:
        frame: windows, one row per ticker and session, in any order.
        folds: how many, all of the same number of dates.
        purge: sessions of each ticker that are left out before the first date scored.

    Yields:
        What a fold trains on and what it scores, both with the grain of `frame`, sorted by session
        and ticker.

    Raises:
        CandlecastError: there are too few session dates.
    """
    frame = in_order(frame)
    dates = frame["session"].unique()
    too_few = CandlecastError(
        f"The training set has {len(dates)} session dates with a whole window, too few for {folds} "
        f"walk-forward folds with a purge of {purge}. Ask for an earlier start, or lower window, "
        "purge or folds."
    )
    if len(dates) <= folds:
        raise too_few
    for _, scored in TimeSeriesSplit(n_splits=folds).split(dates):
        first, last = dates[scored[0]], dates[scored[-1]]
        past = purge_before(frame, first, purge)
        if past.empty:
            raise too_few
        yield past, frame[frame["session"].between(first, last)]
