"""Simple predictions to compare a model with."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from candlecast.models.forests import Floats, features


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


def predict_logistic(train: pd.DataFrame, test: pd.DataFrame) -> Floats:
    """Return P(up) of each row of `test` by a logistic regression on the lags of `train`.

    If `train` has one class only, that class is predicted.
    """
    if train["up"].nunique() == 1:
        return np.full(len(test), float(train["up"].iloc[0]))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(features(train).astype(float), train["up"])
    probability: Floats = regression.predict_proba(features(test).astype(float))[:, 1]
    return probability
