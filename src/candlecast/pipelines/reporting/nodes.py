"""Functions of the reporting pipeline that are neither evaluation nor pages."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from candlecast.evaluation.metrics import (
    by_group,
    classification_table,
    confusion,
    volatility_tercile,
)
from candlecast.evaluation.significance import calibration, ticker_tests
from candlecast.evaluation.trading import equity_curve
from candlecast.parameters import Evaluation


def build_tables(
    test_scores: pd.DataFrame,
    validation_losses: pd.DataFrame,
    model_selection: list[dict[str, Any]],
    importance: list[dict[str, Any]],
    evaluation: Evaluation,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Return the tables of the report, also those behind its figures.

    Args:
        test_scores: the predictions frame, see `candlecast.evaluation.metrics`.
        validation_losses: as in `candlecast.evaluation.significance.evaluate_model`; the column of
            an estimator has its name.
        model_selection: one row per estimator.
        importance: one row per feature, see `candlecast.evaluation.importance`.
        evaluation: ``repetitions`` of the bootstrap, and ``cost_bps`` of a trade.
        seed: of the bootstrap.

    Returns:
        ``classes`` and ``confusion``; ``roc`` (101 points; empty when only one class occurred);
        ``calibration``; ``ticker``, ``year`` and ``volatility``; ``equity`` (one row per session);
        ``estimators``: `model_selection` with ``gain``, the log loss saved by date against the base
        rate; and ``importance``.
    """
    tests = ticker_tests(test_scores).drop(columns="sessions")
    losses = validation_losses.drop(columns="session").mean()
    gains = [losses["base_rate"] - losses[row["estimator"]] for row in model_selection]
    return {
        "classes": classification_table(test_scores),
        "confusion": confusion(test_scores).reset_index(),
        "roc": _roc(test_scores),
        "calibration": calibration(test_scores, repetitions=evaluation.repetitions, seed=seed),
        "ticker": by_group(test_scores, test_scores["ticker"]).merge(tests, on="ticker"),
        "year": by_group(test_scores, test_scores["session"].dt.year.rename("year")),
        "volatility": by_group(test_scores, volatility_tercile(test_scores).rename("volatility")),
        "equity": equity_curve(test_scores, cost_bps=evaluation.cost_bps),
        "estimators": pd.DataFrame(model_selection).assign(gain=gains),
        "importance": pd.DataFrame(importance),
    }


def _roc(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the ROC curve at 101 shares of downs predicted up."""
    if predictions["up"].nunique() < 2:
        return pd.DataFrame()
    false_up, true_up, _ = roc_curve(predictions["up"], predictions["probability"])
    grid = np.linspace(0, 1, 101)
    curve = pd.DataFrame({"false_up": grid, "true_up": np.interp(grid, false_up, true_up)})
    curve.loc[0, "true_up"] = 0.0
    return curve
