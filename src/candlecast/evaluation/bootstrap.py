"""The bootstrap behind every interval: dates are drawn, never single rows.

Rows of one date are not independent, since tickers move together. The unit of every interval is
therefore the date: all rows of a date are drawn together, in blocks of dates.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from arch.bootstrap import StationaryBootstrap, optimal_block_length

from candlecast.evaluation.metrics import probability_of

CONFIDENCE = 0.95
"""Of the intervals, two-sided: a gate on the lower end passes without skill in 2.5 % of cases."""

MIN_SESSIONS = 20
"""Distinct dates below which there is no interval: a bootstrap of fewer says nothing."""

Floats = npt.NDArray[np.float64]


class DateBootstrap:
    """A stationary bootstrap of the dates of `sessions`; all rows of a date are drawn together.

    Args:
        sessions: the date of each row.
        series: one row per row; the daily means of its columns decide on the block length, the
            largest that the rule asks for.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Attributes:
        block: mean length of a block, in dates.
        counts: how often each date is drawn: one row per repetition, one column per date. Every
            metric is a function of sums over dates, so these counts are all that it needs.

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
        self.counts = np.stack(
            [
                np.bincount(draws.update_indices(), minlength=len(dates)).astype(np.float64)
                for _ in range(repetitions)
            ]
        )

    def sums(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the sum of each column of `rows` over the rows drawn: one row per repetition."""
        daily = rows.groupby(self._date).sum()
        return pd.DataFrame(self.counts @ daily.to_numpy(), columns=daily.columns)

    def roc_auc(self, predictions: pd.DataFrame, name: str) -> Floats:
        """Return the ROC AUC of each repetition: the share of (up, down) pairs ranked rightly.

        Rows are sorted once; in each repetition a row weighs as often as its date was drawn, and
        ties count half. NaN where a repetition drew one class only.
        """
        probability = probability_of(predictions, name)
        order = np.argsort(probability, kind="stable")
        starts = np.flatnonzero(np.diff(probability[order], prepend=-1.0))
        up = predictions["up"].to_numpy(dtype=np.float64)[order]
        date, auc = self._date[order], []
        for part in np.array_split(self.counts, max(1, self.counts.size // 100_000)):  # memory
            weights = part[:, date]
            ups = np.add.reduceat(weights * up, starts, axis=1)
            downs = np.add.reduceat(weights * (1 - up), starts, axis=1)
            below = np.cumsum(downs, axis=1) - downs / 2
            with np.errstate(invalid="ignore"):
                auc.append((ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)))
        return np.concatenate(auc)


def block_length(daily: Floats) -> int:
    """Return the mean block length, in dates, for the most persistent column of `daily`.

    Args:
        daily: one row per date, one column per series; constant columns are skipped.
    """
    varying = daily[:, np.ptp(daily, axis=0) > 0]
    if varying.shape[1] == 0:
        return 1
    return max(1, int(np.ceil(optimal_block_length(varying)["stationary"].max())))


def draw_dates(
    sessions: "pd.Series[Any]", series: pd.DataFrame, repetitions: int, seed: int
) -> DateBootstrap | None:
    """Return the bootstrap of the dates of `sessions`; None when they are fewer than 20."""
    if sessions.nunique() < MIN_SESSIONS:
        return None
    return DateBootstrap(sessions, series, repetitions, seed)


def percentile_interval(values: Floats) -> tuple[float, float]:
    """Return the ends of the percentile interval; NaN when over 1 % of `values` is undefined."""
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
