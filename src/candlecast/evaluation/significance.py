"""How far the predictions can be trusted: intervals by date, and tests.

Rows of one date are not independent, since tickers move together. The unit of every interval is
therefore the date: all rows of a date are drawn together, in blocks of dates. Functions take the
predictions frame (see `candlecast.metrics`), one row per ticker and session.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from arch.bootstrap import SPA, StationaryBootstrap, optimal_block_length
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.diagnostic import pesaran_timmermann
from statsmodels.stats.multitest import multipletests

from candlecast.evaluation.metrics import (
    MODEL,
    THRESHOLD,
    best_baseline,
    calibration_bins,
    check_predictions,
    compute_metrics,
    hits_of,
    log_losses,
    probability_of,
)
from candlecast.evaluation.trading import trading_metrics

CONFIDENCE = 0.95
"""Of the intervals, two-sided: a gate on the lower end passes without skill in 2.5 % of cases."""

MIN_SESSIONS = 20
"""Distinct dates below which there is no interval: a bootstrap of fewer says nothing."""

Floats = npt.NDArray[np.float64]


def evaluate(
    predictions: pd.DataFrame, *, repetitions: int, seed: int, cost_bps: float, trials: int
) -> dict[str, float]:
    """Give every figure of the predictions as flat numbers.

    Args:
        predictions: the predictions frame with ``return_``, one row per ticker and session.
        repetitions: bootstrap repetitions, at least 1,000 for a report.
        seed: of the bootstrap.
        cost_bps: cost of one side of a trade, in basis points of the traded value.
        trials: how many estimators were tried before this model was chosen.

    Returns:
        The union of `candlecast.evaluation.metrics.compute_metrics`, `intervals`, `compare`,
        `row_tests`, the smallest adjusted p-value of `ticker_tests` as ``holm_min_p_value``, and
        `trading_metrics`.
    """
    return {
        **compute_metrics(predictions),
        **intervals(predictions, repetitions=repetitions, seed=seed),
        **compare(predictions, repetitions=repetitions, seed=seed),
        **row_tests(predictions),
        "holm_min_p_value": float(ticker_tests(predictions)["holm_p_value"].min()),
        **trading_metrics(predictions, cost_bps=cost_bps, trials=trials),
    }


def intervals(predictions: pd.DataFrame, *, repetitions: int, seed: int) -> dict[str, float]:
    """Give the 95 % percentile interval of each figure by a stationary bootstrap of dates.

    The mean block length is the largest that Politis and White's rule asks for among three daily
    series: hits, hits less the best baseline's, and log loss. The best baseline is the best on the
    scored rows and stays the same in every repetition, which can only lower the difference.

    Args:
        predictions: the predictions frame, one row per ticker and session.
        repetitions: bootstrap repetitions.
        seed: of the bootstrap; the same seed gives the same numbers.

    Returns:
        ``<name>.low`` and ``<name>.high`` for accuracy, balanced_accuracy, f1, precision, recall,
        matthews_corrcoef, brier_score_loss, log_loss, brier_skill, log_loss_skill, ece (in the
        bins of all rows), roc_auc, roc_auc_minus_half and accuracy_minus_best_baseline, and
        ``bootstrap_repetitions``, ``bootstrap_seed``, ``bootstrap_block_length`` (dates) and
        ``bootstrap_confidence``. Intervals are left out on fewer than 20 dates; a figure's is left
        out when the figure is undefined in more than 1 % of the repetitions.

    Raises:
        ValueError: see `candlecast.evaluation.metrics.check_predictions`.

    References:
        Politis and Romano (1994), The stationary bootstrap, JASA 89.
        Patton, Politis and White (2009), Econometric Reviews 28, for the block length.
    """
    check_predictions(predictions)
    result = {
        "bootstrap_repetitions": float(repetitions),
        "bootstrap_seed": float(seed),
        "bootstrap_confidence": CONFIDENCE,
    }
    date, dates = pd.factorize(predictions["session"], sort=True)
    if len(dates) < MIN_SESSIONS:
        return result
    rows = _row_quantities(predictions)
    daily = rows.groupby(date).sum()
    block = block_length(
        daily[["hit", "lead", "log_loss"]].div(daily["rows"], axis="index").to_numpy()
    )
    result["bootstrap_block_length"] = float(block)
    counts = resample_counts(len(dates), repetitions=repetitions, block=block, seed=seed)
    drawn = pd.DataFrame(counts @ daily.to_numpy(), columns=daily.columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = _figures(drawn)
        figures["roc_auc"] = _weighted_auc(predictions, MODEL, date, counts)
    figures["roc_auc_minus_half"] = figures["roc_auc"] - 0.5
    return result | _ends(figures)


def _ends(figures: dict[str, Floats]) -> dict[str, float]:
    """Give ``<name>.low`` and ``<name>.high`` of each figure, from its value a repetition."""
    ends: dict[str, float] = {}
    tail = (1 - CONFIDENCE) / 2
    for name, values in figures.items():
        defined = values[np.isfinite(values)]
        if len(defined) >= 0.99 * len(values):
            low, high = np.quantile(defined, [tail, 1 - tail])
            ends |= {f"{name}.low": float(low), f"{name}.high": float(high)}
    return ends


def compare(predictions: pd.DataFrame, *, repetitions: int, seed: int) -> dict[str, float]:
    """Compare the model with the champion, on the rows that both can be scored on.

    Those that the champion was trained on are not among them: there it would be flattered.

    Args:
        predictions: the predictions frame, one row per ticker and session.
        repetitions: bootstrap repetitions.
        seed: of the bootstrap.

    Returns:
        ``champion.version``, ``champion.sessions`` (distinct dates compared on), ``champion.rows``,
        the champion's ``champion.accuracy``, ``champion.roc_auc``, ``champion.log_loss`` and
        ``champion.brier_score_loss``, and ``accuracy_minus_champion`` and
        ``roc_auc_minus_champion`` (the model's less the champion's on these rows) with ``.low`` and
        ``.high``, as in `intervals`. Nothing when there is no champion, and no figures without a
        row to compare on.
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
    model, champion = (
        compute_metrics(both),
        compute_metrics(both.assign(probability=both["champion"])),
    )
    for name in ("accuracy", "roc_auc", "log_loss", "brier_score_loss"):
        if name in champion:
            result[f"champion.{name}"] = champion[name]
    for name in ("accuracy", "roc_auc"):
        if name in champion:
            result[f"{name}_minus_champion"] = model[name] - champion[name]
    date, dates = pd.factorize(both["session"], sort=True)
    if len(dates) < MIN_SESSIONS:
        return result
    lead = hits_of(both, MODEL).astype(np.float64) - hits_of(both, "champion")
    daily = pd.DataFrame({"lead": lead, "rows": 1.0}).groupby(date).sum()
    block = block_length((daily["lead"] / daily["rows"]).to_numpy()[:, None])
    counts = resample_counts(len(dates), repetitions=repetitions, block=block, seed=seed)
    drawn = counts @ daily.to_numpy()
    figures = {"accuracy_minus_champion": drawn[:, 0] / drawn[:, 1]}
    with np.errstate(invalid="ignore", divide="ignore"):
        figures["roc_auc_minus_champion"] = _weighted_auc(
            both, MODEL, date, counts
        ) - _weighted_auc(both, "champion", date, counts)
    return result | _ends(figures)


def block_length(daily: Floats) -> int:
    """Return the mean block length, in dates, for the most persistent column of `daily`.

    Args:
        daily: one row per date, one column per series; constant columns say nothing and are
        skipped.
    """
    varying = daily[:, np.ptp(daily, axis=0) > 0]
    if varying.shape[1] == 0:
        return 1
    return max(1, int(np.ceil(optimal_block_length(varying)["stationary"].max())))


def resample_counts(dates: int, *, repetitions: int, block: int, seed: int) -> Floats:
    """Return how often each date is drawn: one row per repetition, one column per date.

    Every figure is a function of sums over dates, so these counts are all a bootstrap needs.
    """
    bootstrap = StationaryBootstrap(block, np.arange(dates), seed=seed)
    return np.stack(
        [
            np.bincount(bootstrap.update_indices(), minlength=dates).astype(np.float64)
            for _ in range(repetitions)
        ]
    )


def _row_quantities(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return what the figures are sums of, one row per row of the predictions."""
    up = predictions["up"].to_numpy(dtype=np.float64)
    probability = probability_of(predictions, MODEL)
    base = probability_of(predictions, "base_rate")
    predicted = (probability > THRESHOLD).astype(np.float64)
    hit = hits_of(predictions, MODEL).astype(np.float64)
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
            **{f"bin_{k}": (probability - up) * (bins == k) for k in range(bins.max() + 1)},
        }
    )


def _figures(sums: pd.DataFrame) -> dict[str, Floats]:
    """Return each figure from the sums of `_row_quantities`, one value per row of `sums`."""
    s: dict[str, Floats] = {str(name): sums[name].to_numpy() for name in sums}
    rows, up, predicted, both = s["rows"], s["up"], s["predicted"], s["both"]
    down = rows - up
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


def _weighted_auc(
    predictions: pd.DataFrame, name: str, date: npt.NDArray[np.intp], counts: Floats
) -> Floats:
    """Return the ROC AUC of each repetition: the share of (up, down) pairs ranked rightly.

    Rows are sorted once; in each repetition a row weighs as often as its date was drawn, and ties
    count half. NaN where a repetition drew one class only.
    """
    probability = probability_of(predictions, name)
    order = np.argsort(probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=-1.0))
    up = predictions["up"].to_numpy(dtype=np.float64)[order]
    auc = []
    for part in np.array_split(counts, max(1, counts.size // 100_000)):  # bounds the memory
        weights = part[:, date[order]]
        ups = np.add.reduceat(weights * up, starts, axis=1)
        downs = np.add.reduceat(weights * (1 - up), starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        auc.append((ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)))
    return np.concatenate(auc)


def directional_test(predictions: pd.DataFrame) -> tuple[float, float] | None:
    """Test whether predicted and actual directions are independent (Pesaran and Timmermann 1992).

    Returns:
        The statistic, standard normal without skill, and the one-sided p-value (small: directions
        are predicted better than by chance); None when either direction never varies.
    """
    up = predictions["up"].to_numpy()
    predicted = (probability_of(predictions, MODEL) > THRESHOLD).astype(int)
    if np.ptp(up) == 0 or np.ptp(predicted) == 0:
        return None
    result = pesaran_timmermann(up, predicted, alternative="larger")
    return float(result.statistic), float(result.pvalue)


def row_tests(predictions: pd.DataFrame) -> dict[str, float]:
    """Test the model by rows: McNemar against the best baseline, and Pesaran-Timmermann.

    Both take rows as independent, so with several tickers they are too sure; the intervals by date
    decide. They are here because readers know them.

    Returns:
        ``mcnemar_p_value`` (exact, two-sided), ``mcnemar_model_only`` and
        ``mcnemar_baseline_only`` (rows that only one of the two got right),
        ``pesaran_timmermann_statistic`` and ``pesaran_timmermann_p_value`` (one-sided; left out
        when the prediction or the outcome never varies).
    """
    check_predictions(predictions)
    model, baseline = hits_of(predictions, MODEL), hits_of(predictions, best_baseline(predictions))
    model_only, baseline_only = int((model & ~baseline).sum()), int((baseline & ~model).sum())
    table = [[int((model & baseline).sum()), model_only], [baseline_only, 0]]
    table[1][1] = len(predictions) - sum(map(sum, table))
    result = {
        "mcnemar_model_only": float(model_only),
        "mcnemar_baseline_only": float(baseline_only),
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
    losses: pd.DataFrame, benchmark: "pd.Series[float]", *, repetitions: int, seed: int
) -> dict[str, float]:
    """Test whether the best candidate beats the benchmark, counting how many were tried.

    Args:
        losses: one row per validation date, one column per candidate: its mean loss on that date.
        benchmark: the loss of the base rate (or another benchmark) on the same dates.
        repetitions: bootstrap repetitions.
        seed: of the bootstrap.

    Returns:
        ``spa_p_value`` (the consistent one; small: the best candidate is better than the benchmark
        beyond what picking the best of them explains), ``spa_estimators`` and ``spa_sessions``.

    Raises:
        ValueError: a loss is missing, or the dates of the two differ.

    References:
        Hansen (2005), A test for superior predictive ability, JBES 23, 365-380.
    """
    if not losses.index.equals(benchmark.index):
        raise ValueError("Losses of the estimators and of the benchmark are of different dates.")
    if missing := int(losses.isna().sum().sum() + benchmark.isna().sum()):
        raise ValueError(f"{missing} of the losses for the superior ability test are NaN.")
    gains = benchmark.to_numpy()[:, None] - losses.to_numpy()
    p_value = 1.0  # arch answers 0 when no loss differs from the benchmark's
    if np.ptp(gains) > 0 and len(losses) >= MIN_SESSIONS:
        block = block_length(gains)
        test = SPA(benchmark.to_numpy(), losses.to_numpy(), block, repetitions, seed=seed)
        test.compute()
        p_value = float(test.pvalues["consistent"])
    return {
        "spa_p_value": p_value,
        "spa_estimators": float(losses.shape[1]),
        "spa_sessions": float(len(losses)),
    }
