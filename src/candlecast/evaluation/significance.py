"""How far the predictions can be trusted: intervals by date, and tests.

Functions take the predictions frame (see `candlecast.evaluation.metrics`), and `repetitions` and
`seed` of the bootstrap. The same seed gives the same numbers.
"""

import numpy as np
import pandas as pd
from arch.bootstrap import SPA
from sklearn.metrics import confusion_matrix
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.diagnostic import pesaran_timmermann
from statsmodels.stats.multitest import multipletests

from candlecast.evaluation.bootstrap import (
    CONFIDENCE,
    MIN_SESSIONS,
    block_length,
    draw_dates,
    interval_ends,
    percentile_interval,
)
from candlecast.evaluation.metrics import (
    MODEL,
    Floats,
    best_baseline,
    calibration_bins,
    check_predictions,
    compute_metrics,
    hits_of,
    log_losses,
    predicted_up,
    probability_of,
)
from candlecast.evaluation.trading import trading_metrics
from candlecast.parameters import Evaluation
from candlecast.progress import progress


def evaluate_model(
    test_scores: pd.DataFrame, validation_losses: pd.DataFrame, evaluation: Evaluation, seed: int
) -> dict[str, float]:
    """Return every metric, interval and test of a model as flat numbers.

    Args:
        test_scores: the predictions frame with ``return_``.
        validation_losses: one row per validated session date: ``session``, ``base_rate`` and one
            column per estimator tried, its mean loss on that date.
        evaluation: ``repetitions`` of the bootstrap, and ``cost_bps`` of a trade.
        seed: of the bootstrap.

    Returns:
        The union of `candlecast.evaluation.metrics.compute_metrics`, `intervals`, `compare`,
        `row_tests`, the smallest adjusted p-value of `ticker_tests` as ``holm_min_p_value``,
        `candlecast.evaluation.trading.trading_metrics` and `superior_ability`.
    """
    bootstrap = {"repetitions": evaluation.repetitions, "seed": seed}
    ability = superior_ability(validation_losses, **bootstrap)
    trials = int(ability["spa_estimators"])
    return {
        **compute_metrics(test_scores),
        **intervals(test_scores, **bootstrap),
        **compare(test_scores, **bootstrap),
        **row_tests(test_scores),
        "holm_min_p_value": float(ticker_tests(test_scores)["holm_p_value"].min()),
        **trading_metrics(test_scores, cost_bps=evaluation.cost_bps, trials=trials),
        **ability,
    }


def intervals(predictions: pd.DataFrame, *, repetitions: int, seed: int) -> dict[str, float]:
    """Return the 95 % percentile interval of each metric by a stationary bootstrap of dates.

    The mean block length is the largest that Politis and White's rule gives for three daily series:
    hits, hits minus the best baseline's, and log loss. The best baseline is the best on all rows
    and stays the same in every repetition, which can only lower the difference.

    Returns:
        ``<name>.low`` and ``<name>.high`` for accuracy, balanced_accuracy, f1, precision, recall,
        matthews_corrcoef, brier_score_loss, log_loss, brier_skill, log_loss_skill, ece (in the
        bins of all rows), roc_auc, roc_auc_minus_half and accuracy_minus_best_baseline, and
        ``bootstrap_repetitions``, ``bootstrap_seed``, ``bootstrap_block_length`` (dates) and
        ``bootstrap_confidence``. On fewer than 20 dates there is no interval, and none of a metric
        that is undefined in more than 1 % of the repetitions.
    """
    check_predictions(predictions)
    result = {
        "bootstrap_repetitions": float(repetitions),
        "bootstrap_seed": float(seed),
        "bootstrap_confidence": CONFIDENCE,
    }
    rows = _row_quantities(predictions)
    bootstrap = draw_dates(predictions["session"], rows[BLOCK_SERIES], repetitions, seed)
    if bootstrap is None:
        return result
    metrics = _metrics_of_sums(bootstrap.sums(rows))
    metrics["roc_auc"] = bootstrap.roc_auc(predictions)
    metrics["roc_auc_minus_half"] = metrics["roc_auc"] - 0.5
    return {**result, "bootstrap_block_length": float(bootstrap.block), **interval_ends(metrics)}


def calibration(predictions: pd.DataFrame, *, repetitions: int, seed: int) -> pd.DataFrame:
    """Compare probabilities with what happened, in bins of about equal count.

    Returns:
        One row per bin, from low to high: ``probability`` (the mean), ``share_up``, ``rows``, and
        ``low`` and ``high``: the 95 % percentile interval of the share, from the same draws of
        dates as `intervals`, in the bins of all rows. They are NaN in a bin with fewer than 20
        dates, or with one class: every draw would have the same share.
    """
    check_predictions(predictions)
    bin_of_row = calibration_bins(predictions["probability"].to_numpy())
    bins = predictions.groupby(bin_of_row)
    table = bins.agg(
        probability=("probability", "mean"), share_up=("up", "mean"), rows=("up", "size")
    )
    series = _row_quantities(predictions)[BLOCK_SERIES]
    bootstrap = draw_dates(predictions["session"], series, repetitions, seed)
    ends = np.full((len(table), 2), np.nan)
    if bootstrap is not None:
        within = pd.get_dummies(bin_of_row, dtype=float)
        ups = bootstrap.sums(within.mul(predictions["up"].to_numpy(), axis="index"))
        with np.errstate(invalid="ignore"):
            shares = (ups / bootstrap.sums(within)).to_numpy()
        varied = (bins["session"].nunique() >= MIN_SESSIONS) & (bins["up"].nunique() > 1)
        for place in np.flatnonzero(varied):
            ends[place] = percentile_interval(shares[:, place])
    return table.assign(low=ends[:, 0], high=ends[:, 1]).reset_index(drop=True)


def compare(predictions: pd.DataFrame, *, repetitions: int, seed: int) -> dict[str, float]:
    """Compare the model with the champion, on the rows that are new to both.

    Returns:
        ``champion.version``, ``champion.sessions`` (distinct dates compared on), ``champion.rows``,
        the champion's ``champion.accuracy``, ``champion.roc_auc``, ``champion.log_loss`` and
        ``champion.brier_score_loss``, and ``accuracy_minus_champion`` and
        ``roc_auc_minus_champion`` (the model's minus the champion's on these rows) with ``.low``
        and ``.high``, as in `intervals`. Nothing if there is no champion; only the first three if
        there is no row to compare on.
    """
    if "champion" not in predictions or predictions["champion_version"].isna().all():
        return {}
    both = predictions[predictions["champion"].notna()]
    result = {
        "champion.version": float(predictions["champion_version"].max()),
        "champion.sessions": float(both["session"].nunique()),
        "champion.rows": float(len(both)),
    }
    if both.empty:
        return result
    model = compute_metrics(both)
    champion = compute_metrics(both.assign(probability=both["champion"]))
    for name in ("accuracy", "roc_auc", "log_loss", "brier_score_loss"):
        if name in champion:
            result[f"champion.{name}"] = champion[name]
    for name in ("accuracy", "roc_auc"):
        if name in champion:
            result[f"{name}_minus_champion"] = model[name] - champion[name]
    lead = hits_of(both).astype(np.float64) - hits_of(both, "champion")
    rows = pd.DataFrame({"lead": lead, "rows": 1.0})
    bootstrap = draw_dates(both["session"], rows[["lead"]], repetitions, seed)
    if bootstrap is None:
        return result
    drawn = bootstrap.sums(rows)
    differences = {
        "accuracy_minus_champion": (drawn["lead"] / drawn["rows"]).to_numpy(),
        "roc_auc_minus_champion": bootstrap.roc_auc(both) - bootstrap.roc_auc(both, "champion"),
    }
    return result | interval_ends(differences)


BLOCK_SERIES = ["hit", "lead", "log_loss"]
"""The columns of `_row_quantities` whose daily means decide on the block length."""


def _row_quantities(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the quantities that the metrics are sums of, one row per row of the predictions."""
    up = predictions["up"].to_numpy(dtype=np.float64)
    probability = probability_of(predictions, MODEL)
    base = probability_of(predictions, "base_rate")
    predicted = predicted_up(predictions).astype(np.float64)
    hit = hits_of(predictions).astype(np.float64)
    bins = calibration_bins(probability)
    return pd.DataFrame(
        {
            "rows": np.ones(len(up)),
            "up": up,
            "predicted": predicted,
            "both": up * predicted,
            "hit": hit,
            "lead": hit - hits_of(predictions, best_baseline(predictions)),
            "brier": (probability - up) ** 2,
            "base_brier": (base - up) ** 2,
            "log_loss": log_losses(up, probability),
            "base_log_loss": log_losses(up, base),
            **{f"bin_{k}": (probability - up) * (bins == k) for k in range(int(np.max(bins)) + 1)},
        }
    )


def _metrics_of_sums(sums: pd.DataFrame) -> dict[str, Floats]:
    """Return each metric from the sums of `_row_quantities`, one value per row of `sums`."""
    s: dict[str, Floats] = {str(name): sums[name].to_numpy() for name in sums}
    rows, up, predicted, both = s["rows"], s["up"], s["predicted"], s["both"]
    down = rows - up
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = both / up
        covariance = rows * both - up * predicted
        spread = np.sqrt(up * down * predicted * (rows - predicted))
        brier, log_loss = s["brier"] / rows, s["log_loss"] / rows
        return {
            "accuracy": s["hit"] / rows,
            "balanced_accuracy": (recall + (s["hit"] - both) / down) / 2,
            "f1": 2 * both / (predicted + up),
            "precision": np.where(predicted > 0, both / predicted, 0.0),
            "recall": recall,
            "matthews_corrcoef": np.where(spread > 0, covariance / spread, 0.0),
            "brier_score_loss": brier,
            "log_loss": log_loss,
            "brier_skill": 1 - brier / (s["base_brier"] / rows),
            "log_loss_skill": 1 - log_loss / (s["base_log_loss"] / rows),
            "ece": np.sum([np.abs(s[k]) for k in s if k.startswith("bin_")], axis=0) / rows,
            "accuracy_minus_best_baseline": s["lead"] / rows,
        }


def directional_test(predictions: pd.DataFrame) -> tuple[float, float] | None:
    """Test whether predicted and actual directions are independent (Pesaran and Timmermann 1992).

    Returns:
        The statistic, standard normal without skill, and the one-sided p-value (small: directions
        are predicted better than by chance); None when either direction never varies.
    """
    up, predicted = predictions["up"].to_numpy(), predicted_up(predictions).astype(int)
    if np.ptp(up) == 0 or np.ptp(predicted) == 0:
        return None
    result = pesaran_timmermann(up, predicted, alternative="larger")
    return float(result.statistic), float(result.pvalue)


def row_tests(predictions: pd.DataFrame) -> dict[str, float]:
    """Test the model by rows: McNemar against the best baseline, and Pesaran-Timmermann.

    Both assume independent rows, so with several tickers their p-values are too small. They are
    here because readers know them; the gate uses the intervals by date.

    Returns:
        ``mcnemar_p_value`` (exact, two-sided), ``mcnemar_model_only`` and
        ``mcnemar_baseline_only`` (rows that only one of the two got right),
        ``pesaran_timmermann_statistic`` and ``pesaran_timmermann_p_value`` (one-sided; left out
        when the prediction or the outcome never varies).
    """
    check_predictions(predictions)
    model, baseline = hits_of(predictions), hits_of(predictions, best_baseline(predictions))
    table = confusion_matrix(model, baseline, labels=[True, False])
    result = {
        "mcnemar_model_only": float(table[0, 1]),
        "mcnemar_baseline_only": float(table[1, 0]),
        "mcnemar_p_value": float(mcnemar(table, exact=True).pvalue),
    }
    if directional := directional_test(predictions):
        result["pesaran_timmermann_statistic"], result["pesaran_timmermann_p_value"] = directional
    return result


def ticker_tests(predictions: pd.DataFrame) -> pd.DataFrame:
    """Test each ticker by Pesaran-Timmermann, with Holm's correction for looking at several.

    Returns:
        One row per ticker: ``ticker``, ``sessions``, ``p_value`` (one-sided; 1 where the test is
        undefined) and ``holm_p_value``.
    """
    check_predictions(predictions)
    tickers = [
        (ticker, len(group), test[1] if (test := directional_test(group)) else 1.0)
        for ticker, group in predictions.groupby("ticker", sort=True)
    ]
    table = pd.DataFrame(tickers, columns=["ticker", "sessions", "p_value"])
    return table.assign(holm_p_value=multipletests(table["p_value"], method="holm")[1])


def superior_ability(
    validation_losses: pd.DataFrame, *, repetitions: int, seed: int
) -> dict[str, float]:
    """Test whether the best estimator beats the base rate, counting how many were tried.

    `validation_losses` are those of `evaluate_model`.

    Returns:
        ``spa_p_value`` (the consistent one; small: the best estimator beats the base rate by more
        than choosing the best of several explains), ``spa_estimators`` and ``spa_sessions``.

    Raises:
        ValueError: a loss is missing.

    References:
        Hansen (2005), A test for superior predictive ability, JBES 23, 365-380.
    """
    base_rate = validation_losses["base_rate"].to_numpy()
    losses = validation_losses.drop(columns=["session", "base_rate"]).to_numpy()
    gains = base_rate[:, None] - losses
    if missing := int(np.isnan(gains).sum()):
        raise ValueError(f"{missing} of the losses for the superior ability test are NaN.")
    p_value = 1.0  # arch returns 0 if no loss differs from the benchmark's
    if np.ptp(gains) > 0 and len(losses) >= MIN_SESSIONS:
        test = SPA(base_rate, losses, block_length(gains), repetitions, seed=seed)
        with progress(f"superior ability test of {losses.shape[1]} estimators"):
            test.compute()
        p_value = float(test.pvalues["consistent"])
    return {
        "spa_p_value": p_value,
        "spa_estimators": float(losses.shape[1]),
        "spa_sessions": float(len(losses)),
    }
