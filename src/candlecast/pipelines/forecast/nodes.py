"""Functions of the forecast pipeline.

The forecasts frame has one row per ticker, session and model version: ``ticker``, ``session`` (the
exchange's own date), ``model_version``, ``candidate`` (that the version was made of), ``body_kind``
(what its bodies are), ``probability`` (P(up)), ``previous_day`` (1 when the candle before closed
above its open, else 0), ``base_rate`` (the share of ups that it was trained on), ``made_at`` (UTC),
``prices_version`` (of the table that it was made from), and the outcome, missing until it is known:
``up``, ``body`` and ``return_`` (close / open - 1).
"""

import datetime as dt
import logging
from typing import Any

import pandas as pd
from markupsafe import Markup
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from candlecast.errors import CandlecastError
from candlecast.evaluation.drift import measure_drift
from candlecast.evaluation.metrics import HARD_BASELINES, compute_metrics
from candlecast.evaluation.significance import calibration, intervals
from candlecast.features.windows import candle_body, make_windows, newest_windows
from candlecast.frames import to_pandas
from candlecast.models.prediction import predict_windows
from candlecast.registry.entities import Champion
from candlecast.reporting import figures
from candlecast.reporting.html import accuracies, metric_text, number, percent, render, words
from candlecast.sources.calendars import next_session

logger = logging.getLogger(__name__)

KEY = ["ticker", "session", "model_version"]
MADE = [
    *KEY,
    *("candidate", "body_kind", "probability", "previous_day", "base_rate"),
    *("made_at", "prices_version"),
]
OUTCOME = ["up", "body", "return_"]

LATEST = 20
"""Rows of a table of the page that shows the latest of many."""


class NothingNewError(CandlecastError):
    """There is no session to forecast that the champion does not know already."""

    def __init__(self, champion: Champion, following: str | None):
        super().__init__(
            f"Nothing to forecast: the champion (version {champion.version}, candidate "
            f"{champion.candidate}) was trained and tested on sessions up to "
            f"{champion.last_known}, and "
            + (
                f"the session after the prices of this run is {following}. "
                if following
                else "no ticker has a whole window before its next session. "
            )
            + "Prices and quality are stored, nothing else. To go on, ask for a later end, or "
            "leave it out."
        )


def describe_champion(champion: Champion) -> dict[str, Any]:
    """Return what a reader wants to know of the champion, in plain values."""
    tags = champion.tags
    return {
        "version": champion.version,
        "candidate": champion.candidate,
        "trees": len(champion.model.estimators_),
        "window": champion.window,
        "body": champion.body,
        "last_trained": champion.last_trained,
        "last_known": champion.last_known,
        "rows_trained": champion.profile["rows"],
        "promoted_at": tags.get("promoted_at", ""),
        "approver": tags.get("approver", ""),
        "override_reason": tags.get("override_reason", ""),
    }


def predict_newest(selected_prices: DataFrame, champion: Champion) -> pd.DataFrame:
    """Score the newest window of each ticker, as the champion sees it, where the prices are.

    Returns:
        One row per ticker: ``ticker``, ``last_session``, ``previous_day`` and ``probability``. A
        ticker whose newest window is void has none.
    """
    windows = newest_windows(selected_prices, champion.window, champion.body)
    scored = predict_windows(champion.model, windows, champion.features).select(
        "ticker",
        "last_session",
        (F.col(champion.features[0]) > 0).cast("byte").alias("previous_day"),
        "probability",
    )
    return to_pandas(scored).sort_values("ticker", ignore_index=True)


def make_forecasts(
    newest_predictions: pd.DataFrame,
    champion: Champion,
    tickers: list[str],
    now: dt.datetime,
    prices_version: int,
) -> pd.DataFrame:
    """Make a forecast of each ticker's next session, if the champion does not know that already.

    Args:
        newest_predictions: one row per ticker, from `predict_newest`.
        champion: that made them.
        tickers: that were asked for.
        now: the time (UTC).
        prices_version: of the table that they were made from.

    Returns:
        The forecasts frame without outcomes, sorted by ticker.

    Raises:
        NothingNewError: there is none.
    """
    last = zip(
        newest_predictions["ticker"], newest_predictions["last_session"].dt.date, strict=True
    )
    following = [pd.Timestamp(next_session(ticker, day)) for ticker, day in last]
    made = newest_predictions.assign(session=pd.DatetimeIndex(following))
    for ticker in sorted(set(tickers) - set(made["ticker"])):
        logger.warning(
            "  %-10s no forecast: it has no whole window before its next session", ticker
        )
    known = made["session"] <= pd.Timestamp(champion.last_known)
    if known.all():
        raise NothingNewError(champion, None if made.empty else f"{made['session'].max():%Y-%m-%d}")
    for row in made[known].itertuples(index=False):
        logger.warning(
            "  %-10s no forecast for %s: the champion was tested on sessions up to %s",
            row.ticker,
            f"{row.session:%Y-%m-%d}",
            champion.last_known,
        )
    return (
        made[~known]
        .assign(
            model_version=champion.version,
            candidate=champion.candidate,
            body_kind=champion.body,
            base_rate=champion.profile["share_up"],
            made_at=pd.Timestamp(now),
            prices_version=prices_version,
        )[MADE]
        .reset_index(drop=True)
    )


def merge_forecasts(
    new_forecasts: pd.DataFrame, stored_forecasts: pd.DataFrame | None, prices: DataFrame
) -> pd.DataFrame:
    """Add forecasts to those that were made before, and fill in the outcomes that are known.

    What was forecast first stays: a later forecast of the same ticker, session and version is left
    out. An outcome is that of the prices as they are now; one of a session that they no longer hold
    is kept.

    Returns:
        The forecasts frame, sorted by session, ticker and version.
    """
    every, before = new_forecasts, new_forecasts.iloc[:0]
    if stored_forecasts is not None:
        before = stored_forecasts
        every = pd.concat([before[MADE], new_forecasts], ignore_index=True)
        every = every.drop_duplicates(KEY, ignore_index=True)
    found = _outcomes(prices, every)
    merged = every.merge(found, on=["ticker", "session"], how="left", validate="many_to_one")
    merged["body"] = merged["return_"].where(merged["body_kind"] == "return", merged.pop("delta"))
    if stored_forecasts is not None:
        kept = merged[KEY].merge(before[[*KEY, *OUTCOME]], on=KEY, how="left")
        known = merged["up"].notna()
        merged["up"] = merged["up"].where(known, kept["up"].astype("Int8"))
        for name in ("body", "return_"):
            merged[name] = merged[name].where(known, kept[name])
    logger.info(
        "  %d new forecasts, %d made before; %d of all have an outcome",
        len(merged) - len(before),
        len(before),
        merged["up"].count(),
    )
    ordered = merged.sort_values(["session", "ticker", "model_version"], ignore_index=True)
    return ordered[[*MADE, *OUTCOME]]


def _outcomes(prices: DataFrame, forecasts: pd.DataFrame) -> pd.DataFrame:
    """What became of the sessions: ``ticker``, ``session``, ``return_``, ``delta`` and ``up``."""
    rows = (
        prices.where(F.col("ticker").isin(sorted(forecasts["ticker"].unique())))
        .where(F.col("session") >= F.lit(f"{forecasts['session'].min():%Y-%m-%d}").cast("date"))
        .select(
            "ticker",
            "session",
            candle_body("return").alias("return_"),
            candle_body("delta").alias("delta"),
        )
        .dropna()
    )
    frame = to_pandas(rows)
    return frame.assign(up=(frame["delta"] > 0).astype("Int8"))


def measure_input_drift(
    selected_prices: DataFrame, champion: Champion, monitoring: dict[str, Any]
) -> dict[str, Any]:
    """Compare the windows that the champion has not known with those that it was trained on.

    Returns:
        See `candlecast.evaluation.drift.measure_drift`.
    """
    new = make_windows(selected_prices, champion.window, champion.body).where(
        F.col("session") > F.lit(champion.last_known).cast("date")
    )
    frame = to_pandas(new.select("session", "up", *champion.features))
    return measure_drift(
        champion.profile, frame, monitoring["max_psi"], monitoring["max_share_up_shift"]
    )


def evaluate_champion(
    forecasts: pd.DataFrame,
    champion_summary: dict[str, Any],
    drift: dict[str, Any],
    monitoring: dict[str, Any],
    evaluation: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Say how the champion has really done, and whether it should be retrained.

    Args:
        forecasts: the forecasts frame, of all versions.
        champion_summary: from `describe_champion`.
        drift: from `measure_input_drift`.
        monitoring: thresholds, see the parameters.
        evaluation: ``repetitions`` of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``retrain`` (true, false, or null while it is too early to tell), ``headline``, ``advice``
        (a sentence) and ``reasons``; ``champion``; ``forecasts``: how many of its own were
        ``made``, have an ``outcome``, are ``waiting`` for it, are ``without_session`` (a later
        session of the ticker is there, that one is not, or lacks a price) and were
        ``made_late`` (after the session's day, UTC); ``metrics``: flat numbers of
        `candlecast.evaluation.metrics.compute_metrics` and
        `candlecast.evaluation.significance.intervals` on those with an outcome; ``calibration``:
        one row per bin; ``drift``; ``monitoring``. What is undefined is left out.
    """
    own = forecasts[forecasts["model_version"] == champion_summary["version"]]
    predictions = predictions_of(own)
    metrics, bins = {}, pd.DataFrame()
    if not predictions.empty:
        repetitions = evaluation["repetitions"]
        metrics = {
            **compute_metrics(predictions),
            **intervals(predictions, repetitions=repetitions, seed=seed),
        }
        bins = calibration(predictions, repetitions=repetitions, seed=seed)
    return {
        **_advice(metrics, drift, monitoring["min_sessions"]),
        "champion": champion_summary,
        "forecasts": _counts(own, forecasts),
        "metrics": metrics,
        "calibration": bins.astype(object).where(bins.notna(), None).to_dict("records"),
        "drift": drift,
        "monitoring": monitoring,
    }


def predictions_of(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Make the predictions frame of `candlecast.metrics` of the forecasts that have an outcome."""
    known = forecasts[forecasts["up"].notna()]
    return known[["ticker", "session", "body", "return_", "probability"]].assign(
        up=known["up"].astype(int),
        always_up=1.0,
        majority=(known["base_rate"] > 0.5).astype(float),
        previous_day=known["previous_day"].astype(float),
        base_rate=known["base_rate"],
    )


def _counts(own: pd.DataFrame, forecasts: pd.DataFrame) -> dict[str, int]:
    known = forecasts[forecasts["up"].notna()]
    last_known = own["ticker"].map(known.groupby("ticker")["session"].max())
    open_ = own["up"].isna()
    passed = open_ & (own["session"] < last_known)
    return {
        "made": len(own),
        "outcome": int((~open_).sum()),
        "waiting": int((open_ & ~passed).sum()),
        "without_session": int(passed.sum()),
        "made_late": int(made_late(own).sum()),
    }


def made_late(forecasts: pd.DataFrame) -> "pd.Series[bool]":
    """Whether a forecast was made after the day of its session, UTC: the outcome was there."""
    made: pd.Series[Any] = forecasts["made_at"].dt.tz_convert("UTC").dt.tz_localize(None)
    return made >= forecasts["session"] + pd.Timedelta(days=1)


def _advice(metrics: dict[str, float], drift: dict[str, Any], min_sessions: int) -> dict[str, Any]:
    """Whether to retrain, in a headline, a sentence and its reasons."""
    sessions = int(metrics.get("sessions", 0))
    reasons = _drift_reasons(drift) if drift["sessions"] >= min_sessions else []
    if sessions >= min_sessions and metrics.get("accuracy_minus_best_baseline.high", 0.0) < 0:
        reasons.append(
            "its calls are evidently worse than the best simple rule "
            f"({metric_text(metrics, 'accuracy_minus_best_baseline')} in accuracy)"
        )
    if reasons:
        return {
            "retrain": True,
            "headline": "Retrain the champion",
            "advice": f"Retrain: {_joined(reasons)}.",
            "reasons": reasons,
        }
    if min(sessions, drift["sessions"]) < min_sessions:
        few = drift["sessions"] < min_sessions
        return {
            "retrain": None,
            "headline": "Too early to tell",
            "advice": f"Too early to tell whether to retrain: outcomes of {_counted(sessions)} "
            + (f"and inputs of {_counted(drift['sessions'])} " if few else "")
            + f"are known, and {min_sessions} are needed."
            + ("" if few else " So far the inputs have not drifted."),
            "reasons": [],
        }
    return {
        "retrain": False,
        "headline": "No reason to retrain",
        "advice": "No reason to retrain: the inputs and the share of ups are like those of "
        "training, and the calls are not evidently worse than the best simple rule.",
        "reasons": [],
    }


def _counted(sessions: int) -> str:
    return "1 session" if sessions == 1 else f"{sessions:,} sessions"


def _drift_reasons(drift: dict[str, Any]) -> list[str]:
    reasons, moved = [], [lag for lag in drift["lags"] if lag["drifted"]]
    if moved:
        most = max(moved, key=lambda lag: lag["psi"])
        reasons.append(
            f"its inputs have drifted ({len(moved)} of {len(drift['lags'])} lags; the most, "
            f"{most['name']}, has a stability index of {number(most['psi'], 2)}, above "
            f"{number(max(drift['max_psi'], drift['psi_chance']), 2)})"
        )
    if drift["share_up_drifted"]:
        reasons.append(
            f"the share of ups has shifted from {percent(drift['share_up_trained'])} in training "
            f"to {percent(drift['share_up'])}"
        )
    return reasons


def _joined(reasons: list[str]) -> str:
    """Join phrases: ``a``, ``a, and b``, ``a, b, and c``."""
    *others, last = reasons
    return f"{', '.join(others)}, and {last}" if others else last


def write_track_record(track_record: dict[str, Any], forecasts: pd.DataFrame) -> str:
    """Write the track record: one HTML page that needs nothing else."""
    metrics = track_record["metrics"]
    own = forecasts[forecasts["model_version"] == track_record["champion"]["version"]]
    own = own.assign(late=made_late(own)).sort_values(["session", "ticker"])
    newest = own.drop_duplicates("ticker", keep="last").sort_values("ticker")
    known = own[own["up"].notna()].tail(LATEST).iloc[::-1]
    return render(
        "track_record.html.j2",
        metrics,
        record=track_record,
        plain=_in_plain_words(metrics) if metrics else "",
        newest=newest.to_dict("records"),
        outcomes=known.to_dict("records"),
        body="close / open - 1" if track_record["champion"]["body"] == "return" else "close - open",
        report_figures={name: Markup(text) for name, text in _drawings(track_record).items()},
    )


def _in_plain_words(metrics: dict[str, float]) -> str:
    best = max(HARD_BASELINES, key=lambda name: metrics[f"{name}.accuracy"])
    return (
        f"Of the {metrics['rows']:,.0f} forecasts with an outcome, on "
        f"{_counted(int(metrics['sessions']))}, {percent(metrics['accuracy'])} named the right "
        "direction; the best simple "
        f"rule, \N{LEFT DOUBLE QUOTATION MARK}{words(best)}\N{RIGHT DOUBLE QUOTATION MARK}, "
        f"{percent(metrics['best_baseline.accuracy'])}."
    )


def _drawings(track_record: dict[str, Any]) -> dict[str, str]:
    """Draw what there are enough sessions for, as SVG by name."""
    metrics, drift = track_record["metrics"], track_record["drift"]
    enough, drawn = track_record["monitoring"]["min_sessions"], {}
    if metrics:
        table = accuracies(metrics)
        rules = "; ".join(f"{row.name} {row.accuracy:.3f}" for row in table.itertuples(index=False))
        drawn["accuracy"] = (
            figures.draw_accuracy(table, metrics["best_baseline.accuracy"], "accuracy so far"),
            "Accuracy of the champion and of every baseline",
            f"Accuracy so far: {rules}.",
        )
    if metrics.get("sessions", 0) >= enough:
        drawn["calibration"] = (
            figures.draw_calibration(pd.DataFrame(track_record["calibration"])),
            "Calibration",
            f"Mean gap between probability and share up: {metric_text(metrics, 'ece')}.",
        )
    if drift["sessions"] >= enough:
        indices = "; ".join(f"{lag['name']} {lag['psi']:.3f}" for lag in drift["lags"])
        drawn["drift"] = (
            figures.draw_drift(drift["lags"], drift["max_psi"], drift["psi_chance"]),
            "Population stability index of every lag",
            f"Population stability index: {indices}.",
        )
    return figures.svg_texts(drawn)
