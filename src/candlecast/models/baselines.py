"""Simple predictions to compare a model with."""

from typing import Any

import pandas as pd

from candlecast.models.estimators import fit, make_logistic
from candlecast.models.forests import in_order, thin_out

LOGISTIC_ROWS = 250_000
"""Rows of the logistic regression, at most: it holds them twice in float64."""


def add_baselines(
    predictions: pd.DataFrame, base_rate: "float | pd.Series[float]", previous_up: "pd.Series[bool]"
) -> pd.DataFrame:
    """Add P(up) by every simple rule.

    Args:
        predictions: one row per ticker and session.
        base_rate: share of ups in the training set, for all rows or per row.
        previous_up: per row, whether the candle before closed above its open.

    Returns:
        `predictions` with ``always_up``, ``majority`` (of the training labels), ``previous_day``
        (the direction of the session before) and ``base_rate``.
    """
    rate = pd.Series(base_rate, index=predictions.index, dtype=float)
    return predictions.assign(
        always_up=1.0,
        majority=(rate > 0.5).astype(float),
        previous_day=previous_up.astype(float),
        base_rate=rate,
    )


def fit_logistic(train: pd.DataFrame) -> Any:
    """Return the estimator ``logistic``, fitted on windows.

    Of more than `LOGISTIC_ROWS` rows, those at equal distances are fitted on.
    """
    return fit(make_logistic(), thin_out(in_order(train), LOGISTIC_ROWS))
