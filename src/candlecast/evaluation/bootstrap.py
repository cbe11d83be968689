"""The bootstrap behind every interval: it draws dates, never single rows.

Rows of one date are not independent, since tickers move together. So all rows of a date are drawn
together, in blocks of successive dates.
"""

from typing import Any

import numpy as np
import pandas as pd
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from scipy.sparse import csr_matrix

from candlecast.evaluation.metrics import MODEL, Floats, probability_of

CONFIDENCE = 0.95
"""Of the two-sided intervals: a gate on the lower end passes without skill in 2.5 % of cases."""

MIN_SESSIONS = 20
"""With fewer distinct dates there is no interval: a bootstrap of so few means nothing."""

VALUES_AT_ONCE = 1000
"""Distinct probabilities whose downs per date are in memory at once."""


class DateBootstrap:
    """A stationary bootstrap of the dates of `sessions`.

    Args:
        sessions: the date of each row.
        series: for each row what a metric is the mean of, one or more columns; their daily means
            give the block length, see `block_length`.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Attributes:
        block: mean length of a block, in dates.
        counts: how often each date is drawn: one row per repetition, one column per date. Every
            metric is a function of sums over dates, so it needs no more than these counts.

    References:
        Politis and Romano (1994), The stationary bootstrap, JASA 89.
        Patton, Politis and White (2009), Econometric Reviews 28, for the block length.
    """

    def __init__(
        self, sessions: "pd.Series[Any]", series: pd.DataFrame, repetitions: int, seed: int
    ):
        self._date, dates = pd.factorize(sessions, sort=True)
        self.block = block_length(series.groupby(self._date).mean().to_numpy())
        draws = StationaryBootstrap(self.block, np.arange(len(dates)), seed=seed)
        drawn = (draws.update_indices() for _ in range(repetitions))
        counts = [np.bincount(indices, minlength=len(dates)) for indices in drawn]
        self.counts = np.stack(counts).astype(np.float64)

    def sums(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the sum of each column of `rows` over the rows drawn: one row per repetition."""
        daily = rows.groupby(self._date).sum()
        return pd.DataFrame(self.counts @ daily.to_numpy(), columns=daily.columns)

    def roc_auc(self, predictions: pd.DataFrame, name: str = MODEL) -> Floats:
        """Return the ROC AUC of each repetition: the share of (up, down) pairs ranked correctly.

        Ties count half. NaN where a repetition drew one class only.

        A pair counts as often as the dates of both rows were drawn together. So the pairs are
        counted once per pair of dates, and no repetition looks at rows.
        """
        dates = self.counts.shape[1]
        values, place = np.unique(probability_of(predictions, name), return_inverse=True)
        up = predictions["up"].to_numpy(dtype=np.float64)
        shape = (len(values), dates)
        ups, downs = (
            csr_matrix((rows.astype(np.float32), (place, self._date)), shape)
            for rows in (up, 1 - up)
        )
        ranked, lower = np.zeros((dates, dates)), np.zeros(dates, dtype=np.float32)
        for first in range(0, len(values), VALUES_AT_ONCE):
            part = slice(first, first + VALUES_AT_ONCE)
            equal = downs[part].toarray()
            up_to = lower + equal.cumsum(axis=0)
            ranked += ups[part].T @ (up_to - equal / 2)
            lower = up_to[-1]
        pairs = ((self.counts @ ranked) * self.counts).sum(axis=1)
        totals = [self.counts @ np.bincount(self._date, rows, dates) for rows in (up, 1 - up)]
        with np.errstate(invalid="ignore"):
            return np.asarray(pairs / (totals[0] * totals[1]))


def block_length(daily: Floats) -> int:
    """Return the mean block length, in dates, that suits the most persistent column of `daily`.

    `daily` has one row per date, one column per series; constant columns are skipped.
    """
    varying = daily[:, np.ptp(daily, axis=0) > 0]
    if varying.shape[1] == 0:
        return 1
    return max(1, int(np.ceil(optimal_block_length(varying)["stationary"].max())))


def draw_dates(
    sessions: "pd.Series[Any]", series: pd.DataFrame, repetitions: int, seed: int
) -> DateBootstrap | None:
    """Return the bootstrap of the dates of `sessions`; None when there are fewer than 20."""
    if sessions.nunique() < MIN_SESSIONS:
        return None
    return DateBootstrap(sessions, series, repetitions, seed)


def percentile_interval(values: Floats) -> tuple[float, float]:
    """Return the ends of the percentile interval; NaN if more than 1 % of `values` are NaN."""
    defined = values[np.isfinite(values)]
    if len(defined) < 0.99 * len(values):
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def interval_ends(metrics: dict[str, Floats]) -> dict[str, float]:
    """Return ``<name>.low`` and ``<name>.high`` of each metric, from its value per repetition."""
    ends: dict[str, float] = {}
    for name, values in metrics.items():
        low, high = percentile_interval(values)
        if np.isfinite(low):
            ends |= {f"{name}.low": low, f"{name}.high": high}
    return ends
