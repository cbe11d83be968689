"""Metrics of a probability that the next candle closes above its open.

Every function takes the predictions frame, one row per ticker and session:

* ``ticker``, ``session`` (the exchange's own date), ``body``, ``up`` (1 when close > open);
* ``probability``, the model's P(up), and one column per baseline, each a P(up); ``logistic`` may be
  missing. A P(up) above 0.5 predicts up;
* ``return_``, close / open - 1, where trading is illustrated;
* ``champion``, its P(up), where there is one: NaN in rows that it was trained on or has no window
  for. ``champion_version`` is its version.

Metrics are flat numbers under scikit-learn's names, a baseline's as ``<baseline>.<name>``. A metric
that is undefined is left out, never NaN, so that the numbers are always valid JSON:

* ``roc_auc`` is left out when only one class occurred (``classes`` is then 1);
* ``log_loss``, ``ece`` and skills exist for probabilities only: a hard 0 or 1 that is wrong once
  has an infinite log loss, and a clipped one would measure the clip;
* a skill is left out when the base rate's own loss is zero.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk

THRESHOLD = 0.5
"""A probability above it predicts up."""

MODEL = "model"
"""Names the model where a function takes the name of a baseline or of the model."""

HARD_BASELINES = ("always_up", "always_down", "majority", "previous_day")
"""Baselines that name a class; ``always_down`` needs no column. The gate compares with the best."""

SOFT_BASELINES = ("base_rate", "logistic")
"""Baselines that give a probability."""

BINS = 10
"""Calibration bins, of equal count: a forest's probabilities crowd into few of equal width."""

VOLATILITY_SESSIONS = 21
"""Earlier sessions (about a month) that the volatility before a session is taken from."""

VOLATILITY_MIN_SESSIONS = 5
"""Fewer earlier sessions than this give no volatility."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def check_predictions(predictions: pd.DataFrame) -> None:
    """Refuse a predictions frame that no metric may be computed from.

    Raises:
        ValueError: a column is missing, there is no row, a ticker has a session twice, or a label
            or probability is NaN or out of range. The message names the column and counts rows.
    """
    named = [name for name in baselines_of(predictions) if name != "always_down"]
    probabilities = ["probability", *named]
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
    """Return the names of the baselines; ``logistic`` only where there is its column."""
    baselines = [*HARD_BASELINES, *SOFT_BASELINES]
    return [name for name in baselines if name != "logistic" or name in predictions]


def probability_of(predictions: pd.DataFrame, name: str) -> Floats:
    """Return P(up) of the model (``"model"``) or of a baseline, one value per row."""
    if name == "always_down":
        return np.zeros(len(predictions))
    return predictions["probability" if name == MODEL else name].to_numpy(dtype=np.float64)


def predicted_up(predictions: pd.DataFrame, name: str = MODEL) -> Bools:
    """Return where the model (``"model"``) or a baseline predicts up."""
    return probability_of(predictions, name) > THRESHOLD


def hits_of(predictions: pd.DataFrame, name: str = MODEL) -> Bools:
    """Return where the class predicted by the model (``"model"``) or a baseline came true."""
    return np.asarray(predicted_up(predictions, name) == (predictions["up"].to_numpy() == 1))


def log_losses(up: npt.NDArray[Any], probability: Floats) -> Floats:
    """Return the log loss of each row, in nats.

    A probability of exactly 0 or 1 counts as one double away from it, as in scikit-learn.
    """
    epsilon = np.finfo(np.float64).eps
    right = np.where(up == 1, probability, 1 - probability).clip(epsilon, 1 - epsilon)
    return np.asarray(-np.log(right))


def best_baseline(predictions: pd.DataFrame) -> str:
    """Return the hard baseline of highest accuracy on these rows; of equals the first.

    Always up and always down are both among them, so a model that predicts one class every day
    can't beat the best, whichever way the market went.
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
        metrics = _metrics_of(
            up, probability_of(predictions, name), soft=name not in HARD_BASELINES
        )
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


def calibration_bins(probability: Floats, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each row, from 0: bins of about equal count, equal probabilities together.

    A constant probability gives one bin.
    """
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)))
    return np.searchsorted(edges[1:-1], probability, side="right").astype(np.int64)


def calibration_error(up: npt.NDArray[Any], probability: Floats) -> float:
    """Return the expected calibration error over bins of about equal count.

    The mean over rows of the distance, in the row's bin, of mean probability and share of ups.
    """
    gaps = np.bincount(calibration_bins(probability), probability - up)
    return float(np.abs(gaps).sum() / len(up))


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count rows by actual class (index ``down``, ``up``) and predicted class (columns alike)."""
    check_predictions(predictions)
    return pd.DataFrame(
        sk.confusion_matrix(predictions["up"], predicted_up(predictions), labels=[0, 1]),
        index=pd.Index(["down", "up"], name="actual"),
        columns=pd.Index(["down", "up"], name="predicted"),
    )


def classification_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return ``precision``, ``recall``, ``f1`` and ``rows`` of each class (``class``: down, up)."""
    check_predictions(predictions)
    scores = sk.precision_recall_fscore_support(
        predictions["up"], predicted_up(predictions), labels=[0, 1], zero_division=0
    )
    table = pd.DataFrame(scores, ["precision", "recall", "f1", "rows"], ["down", "up"]).T
    return table.rename_axis("class").reset_index()


def volatility_tercile(predictions: pd.DataFrame) -> "pd.Series[Any]":
    """Return for each row whether the ticker had been calm, middling or turbulent before.

    The volatility before a session is the mean absolute body of the ticker's last 21 predicted
    sessions, that session excluded: known before the open. Terciles are cut within the ticker, as
    bodies may differ in unit, and over all its predicted sessions: hindsight, good for description.

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
    return pd.cut(rank, [0, 1 / 3, 2 / 3, 1], labels=["low", "middle", "high"]).reindex(
        predictions.index
    )


GROUPS: Mapping[str, Callable[[pd.DataFrame], "pd.Series[Any]"]] = {
    "ticker": lambda predictions: predictions["ticker"],
    "year": lambda predictions: predictions["session"].dt.year,
    "volatility": volatility_tercile,
}
"""What `by_group` can group by."""


def by_group(predictions: pd.DataFrame, key: str) -> pd.DataFrame:
    """Compute metrics of the model within groups: by ``ticker``, ``year`` or ``volatility``.

    Returns:
        One row per group: the group under the name `key`, ``sessions`` (distinct dates), ``rows``,
        ``share_up``, ``accuracy``, ``best_baseline`` (its name in this group),
        ``best_baseline_accuracy``, ``accuracy_minus_best_baseline``, ``roc_auc`` (NaN when only one
        class occurred) and ``brier_score_loss``.
    """
    check_predictions(predictions)
    rows = []
    for name, group in predictions.groupby(GROUPS[key](predictions), observed=True):
        metrics = _metrics_of(group["up"].to_numpy(), probability_of(group, MODEL), soft=False)
        best = best_baseline(group)
        best_accuracy = hits_of(group, best).mean()
        rows.append(
            {
                key: name,
                "sessions": group["session"].nunique(),
                "rows": len(group),
                "share_up": group["up"].mean(),
                "accuracy": metrics["accuracy"],
                "best_baseline": best,
                "best_baseline_accuracy": best_accuracy,
                "accuracy_minus_best_baseline": metrics["accuracy"] - best_accuracy,
                "roc_auc": metrics.get("roc_auc", np.nan),
                "brier_score_loss": metrics["brier_score_loss"],
            }
        )
    return pd.DataFrame(rows)
