"""Metrics of a probability that the next candle closes above its open.

Every function takes the predictions frame, one row per ticker and session:

* ``ticker``, ``session`` (the exchange's own date), ``body``, ``up`` (1 when close > open);
* ``probability``, the model's P(up), and one column per baseline, each a P(up); ``logistic`` may be
  missing. A P(up) above 0.5 predicts up;
* ``return_``, close / open - 1, where trading is illustrated;
* ``champion``, the champion's P(up), if there is a champion: NaN in rows that it was trained on or
  has no window for. ``champion_version`` is its version.

Metrics are flat numbers under scikit-learn's names, a baseline's as ``<baseline>.<name>``. A metric
that is undefined is left out, never NaN, so that the numbers are always valid JSON:

* ``roc_auc`` is left out when only one class occurred (``classes`` is then 1);
* ``log_loss``, ``ece`` and skills exist for probabilities only: a hard 0 or 1 that is wrong once
  has an infinite log loss, and a clipped one would measure the clipping;
* a skill is left out when the base rate's loss is zero.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk

THRESHOLD = 0.5
"""A probability above it predicts up."""

MODEL = "probability"
"""The model's column. Functions take it, or a baseline's, as `name`."""

HARD_BASELINES = ("always_up", "always_down", "majority", "previous_day")
"""They predict a class; the gate compares with the best. ``always_down`` has no column."""

BASELINES = (*HARD_BASELINES, "base_rate", "logistic")
"""All baselines; the last two predict a probability."""

BINS = 10
"""Calibration bins, of equal count: a forest's probabilities fill few bins of equal width."""

VOLATILITY_SESSIONS = 21
"""Sessions that the volatility before a session is measured on: about a month."""

VOLATILITY_MIN_SESSIONS = 5
"""With fewer earlier sessions there is no volatility."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def check_predictions(predictions: pd.DataFrame) -> None:
    """Refuse a predictions frame that metrics can't be computed from.

    Raises:
        ValueError: a column is missing, there is no row, a ticker has a session twice, or a label
            or probability is NaN or out of range. The message names the column and counts rows.
    """
    probabilities = [name for name in (MODEL, *baselines_of(predictions)) if name != "always_down"]
    needed = ["ticker", "session", "body", "up", *probabilities]
    if missing := [name for name in needed if name not in predictions]:
        raise ValueError(
            f"Predictions lack the columns {missing}; they have {list(predictions.columns)}."
        )
    if predictions.empty:
        raise ValueError("Predictions have no rows, so there is nothing to evaluate.")
    rows = len(predictions)
    if twice := int(predictions.duplicated(["ticker", "session"]).sum()):
        raise ValueError(f"Predictions repeat a ticker and session in {twice} of {rows} rows.")
    if wrong := int((~predictions["up"].isin([0, 1])).sum()):
        raise ValueError(f"Predictions: 'up' is neither 0 nor 1 in {wrong} of {rows} rows.")
    for name in probabilities:
        if wrong := int((~predictions[name].between(0, 1)).sum()):
            raise ValueError(
                f"Predictions: {name!r} must be a probability from 0 to 1; it is NaN or outside in "
                f"{wrong} of {rows} rows. Find out why; predictions are never repaired."
            )


def baselines_of(predictions: pd.DataFrame) -> list[str]:
    """Return the names of the baselines; ``logistic`` only if it has a column."""
    return [name for name in BASELINES if name != "logistic" or name in predictions]


def probability_of(predictions: pd.DataFrame, name: str) -> Floats:
    """Return P(up) of the model or of a baseline, one value per row."""
    if name == "always_down":
        return np.zeros(len(predictions))
    return predictions[name].to_numpy(dtype=np.float64)


def predicted_up(predictions: pd.DataFrame, name: str = MODEL) -> Bools:
    """Return where the model or a baseline predicts up."""
    return probability_of(predictions, name) > THRESHOLD


def hits_of(predictions: pd.DataFrame, name: str = MODEL) -> Bools:
    """Return where the direction predicted by the model or a baseline was right."""
    return np.asarray(predicted_up(predictions, name) == (predictions["up"].to_numpy() == 1))


def log_losses(up: npt.NDArray[Any], probability: Floats) -> Floats:
    """Return the log loss of each row, in nats; clipped at one double precision epsilon.

    scikit-learn clips alike.
    """
    epsilon = np.finfo(np.float64).eps
    right = np.where(up == 1, probability, 1 - probability).clip(epsilon, 1 - epsilon)
    return np.asarray(-np.log(right))


def best_baseline(predictions: pd.DataFrame) -> str:
    """Return the hard baseline with the highest accuracy on these rows; the first of several.

    It is at least as good as both always up and always down, so a model that predicts one class
    every day can't beat it, whichever way the market went.
    """
    return max(HARD_BASELINES, key=lambda name: float(hits_of(predictions, name).mean()))


def compute_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """Compute the metrics of the model and of every baseline.

    Returns:
        ``accuracy``, ``balanced_accuracy`` (the mean recall of the classes that occurred), ``f1``,
        ``precision``, ``recall`` (of up; 0 when undefined), ``matthews_corrcoef`` (0 when
        undefined), ``brier_score_loss``, ``roc_auc``, ``log_loss``, ``ece`` (see
        `calibration_error`); the skills ``brier_skill`` and ``log_loss_skill`` (1 - loss / loss of
        the training base rate); the same as ``<baseline>.<name>``; ``best_baseline.accuracy``,
        ``accuracy_minus_best_baseline``, ``roc_auc_minus_half``; the counts ``sessions`` (distinct
        dates), ``rows``, ``tickers``, ``classes`` (1 or 2 occurred), ``distinct_probabilities``;
        and ``share_up``, ``predicted_up_share``.

    Raises:
        ValueError: see `check_predictions`, as in every function that takes predictions.
    """
    check_predictions(predictions)
    up = predictions["up"].to_numpy()
    result = {
        "sessions": float(predictions["session"].nunique()),
        "rows": float(len(predictions)),
        "tickers": float(predictions["ticker"].nunique()),
        "classes": float(np.unique(up).size),
        "share_up": float(up.mean()),
        "predicted_up_share": float(predicted_up(predictions).mean()),
        "distinct_probabilities": float(predictions["probability"].nunique()),
    }
    for name in (MODEL, *baselines_of(predictions)):
        prefix = "" if name == MODEL else f"{name}."
        is_hard = name in HARD_BASELINES
        metrics = _metrics_of(up, probability_of(predictions, name), soft=not is_hard)
        result |= {prefix + metric: value for metric, value in metrics.items()}
    for prefix in ("", "logistic."):
        for skill, loss in (("brier_skill", "brier_score_loss"), ("log_loss_skill", "log_loss")):
            if prefix + loss in result and result[f"base_rate.{loss}"] > 0:
                result[prefix + skill] = 1 - result[prefix + loss] / result[f"base_rate.{loss}"]
    result["best_baseline.accuracy"] = result[f"{best_baseline(predictions)}.accuracy"]
    result["accuracy_minus_best_baseline"] = result["accuracy"] - result["best_baseline.accuracy"]
    if "roc_auc" in result:
        result["roc_auc_minus_half"] = result["roc_auc"] - 0.5
    return result


def _metrics_of(up: npt.NDArray[Any], probability: Floats, *, soft: bool) -> dict[str, float]:
    predicted = (probability > THRESHOLD).astype(int)
    seen = np.unique(up).astype(int)
    both = seen.size > 1
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        up, predicted, labels=[0, 1], zero_division=0
    )
    result = {
        "accuracy": sk.accuracy_score(up, predicted),
        "balanced_accuracy": recall[seen].mean(),
        "f1": f1[1],
        "precision": precision[1],
        "recall": recall[1],
        "matthews_corrcoef": sk.matthews_corrcoef(up, predicted) if both else 0.0,
        "brier_score_loss": sk.brier_score_loss(up, probability, pos_label=1),
    }
    if both:
        result["roc_auc"] = sk.roc_auc_score(up, probability)
    if soft:
        result["log_loss"] = sk.log_loss(up, probability, labels=[0, 1])
        result["ece"] = calibration_error(up, probability)
    return {name: float(value) for name, value in result.items()}


def calibration_bins(probability: Floats) -> npt.NDArray[np.int64]:
    """Return the bin of each row, from 0: bins of about equal count, equal probabilities together.

    A constant probability gives one bin.
    """
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, BINS + 1)))
    return np.searchsorted(edges[1:-1], probability, side="right").astype(np.int64)


def calibration_error(up: npt.NDArray[Any], probability: Floats) -> float:
    """Return the expected calibration error over bins of about equal count.

    It is the distance between a bin's mean probability and its share of ups, averaged over rows.
    """
    gaps = np.bincount(calibration_bins(probability), probability - up)
    return float(np.abs(gaps).sum() / len(up))


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count rows by actual class (index) and predicted class (columns), ``down`` and ``up``."""
    check_predictions(predictions)
    return pd.DataFrame(
        sk.confusion_matrix(predictions["up"], predicted_up(predictions), labels=[0, 1]),
        index=pd.Index(["down", "up"], name="actual"),
        columns=pd.Index(["down", "up"], name="predicted"),
    )


def classification_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return ``precision``, ``recall``, ``f1`` and ``rows`` of each class (``class``: down, up)."""
    check_predictions(predictions)
    metrics = sk.precision_recall_fscore_support(
        predictions["up"], predicted_up(predictions), labels=[0, 1], zero_division=0
    )
    table = pd.DataFrame(metrics, ["precision", "recall", "f1", "rows"], ["down", "up"]).T
    return table.rename_axis("class").reset_index()


def volatility_tercile(predictions: pd.DataFrame) -> "pd.Series[Any]":
    """Return how volatile the ticker was before each row's session.

    Volatility is the mean absolute body of the ticker's last 21 predicted sessions before that one,
    so it is known before the open. Terciles are cut per ticker, as units of bodies may differ, and
    over all its predicted sessions. That needs hindsight and is good for description only.

    Returns:
        ``"low"``, ``"middle"`` or ``"high"`` on the index of `predictions`; missing in a ticker's
        first five sessions.
    """
    ordered = predictions.sort_values(["ticker", "session"])
    volatility = (
        ordered.assign(size=ordered["body"].abs())
        .groupby("ticker")["size"]
        .transform(
            lambda size: size.shift().rolling(VOLATILITY_SESSIONS, VOLATILITY_MIN_SESSIONS).mean()
        )
    )
    rank = volatility.groupby(ordered["ticker"]).rank(pct=True, method="first")
    terciles = pd.cut(rank, [0, 1 / 3, 2 / 3, 1], labels=["low", "middle", "high"])
    return terciles.reindex(predictions.index)


def by_group(predictions: pd.DataFrame, groups: "pd.Series[Any]") -> pd.DataFrame:
    """Compute metrics of the model per group of rows.

    Returns:
        One row per group: the group under the name of `groups`, ``sessions`` (distinct dates),
        ``rows``, ``share_up``, ``accuracy``, ``best_baseline`` (its name in this group),
        ``best_baseline_accuracy``, ``accuracy_minus_best_baseline``, ``roc_auc`` (NaN when only one
        class occurred) and ``brier_score_loss``.
    """
    check_predictions(predictions)
    rows = []
    for name, group in predictions.groupby(groups, observed=True):
        up, probability = group["up"].to_numpy(), probability_of(group, MODEL)
        accuracy, best = hits_of(group).mean(), best_baseline(group)
        best_accuracy = hits_of(group, best).mean()
        rows.append(
            {
                groups.name: name,
                "sessions": group["session"].nunique(),
                "rows": len(group),
                "share_up": up.mean(),
                "accuracy": accuracy,
                "best_baseline": best,
                "best_baseline_accuracy": best_accuracy,
                "accuracy_minus_best_baseline": accuracy - best_accuracy,
                "roc_auc": sk.roc_auc_score(up, probability) if np.ptp(up) else np.nan,
                "brier_score_loss": np.mean((probability - up) ** 2),
            }
        )
    return pd.DataFrame(rows)
