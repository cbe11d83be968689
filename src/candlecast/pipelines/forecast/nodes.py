"""Functions of the forecast pipeline.

The forecasts frame has one row per ticker, session and model version: ``ticker``, ``session`` (the
exchange's own date), ``model_version``, ``candidate`` (that the version was made from),
``body_kind`` (how that model's bodies are computed), ``probability`` (P(up)), ``previous_day`` (1
when the candle before closed above its open, else 0), ``base_rate`` (the share of ups that the
model was trained on), ``made_at`` and ``opens_at`` (when its session opens, both UTC), ``late``
(not made in time), ``prices_version`` (of the table ``prices``), and the outcome, missing until it
is known: ``up``, ``body`` and ``return_`` (close / open - 1).
"""

import logging
from functools import partial
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from candlecast.errors import NotEnoughDataError, limited
from candlecast.evaluation.drift import measure_drift
from candlecast.evaluation.track_record import (
    advise_retraining,
    count_forecasts,
    evaluate_forecasts,
)
from candlecast.features.windows import candle_body, known_before, make_windows
from candlecast.frames import to_pandas
from candlecast.models.prediction import predict_windows
from candlecast.parameters import Evaluation, Monitoring
from candlecast.registry.entities import Champion
from candlecast.sources.calendars import next_session, opening_times, read_clock

logger = logging.getLogger(__name__)

KEY = ["ticker", "session", "model_version"]
MADE = [
    *KEY,
    *("candidate", "body_kind", "probability", "previous_day", "base_rate"),
    *("made_at", "opens_at", "late", "prices_version"),
]
OUTCOME = ["up", "body", "return_"]


def describe_champion(champion: Champion) -> dict[str, Any]:
    """Return what a reader wants to know about the champion, in plain values."""
    tags = champion.tags
    return {
        "version": champion.version,
        "candidate": champion.candidate,
        "estimator": champion.estimator,
        "features": champion.features,
        "window": champion.window,
        "body": champion.body,
        "last_trained": champion.last_trained,
        "last_known": champion.last_known,
        "rows_trained": champion.profile["rows"],
        "promoted_at": tags.get("promoted_at", ""),
        "approver": tags.get("approver", ""),
        "override_reason": tags.get("override_reason", ""),
    }


def predict_sessions(
    selected_prices: DataFrame, champion: Champion, calendar: str | None, since: str | None
) -> pd.DataFrame:
    """Predict the next session of each ticker, of which its date alone is known, and earlier ones.

    Args:
        selected_prices: one row per ticker and session.
        champion: the version to predict with.
        calendar: of the exchange; None: by each ticker's ending.
        since: the first of the sessions to predict that have prices, among those that the champion
            does not know; "champion": all of them; None: none.

    Returns:
        One row per ticker and session, sorted: ``ticker``, ``session``, ``previous_day`` and
        ``probability``. A session whose window is void has none.
    """
    last = selected_prices.groupBy("ticker").agg(F.max("session").alias("last")).collect()
    following = selected_prices.sparkSession.createDataFrame(
        [(row["ticker"], next_session(row["ticker"], row["last"], calendar)) for row in last],
        "ticker STRING, session DATE",
    ).withColumn("chosen", F.lit(True))
    session, unknown = F.col("session"), F.col("session") > F.lit(champion.last_known).cast("date")
    first = champion.last_known if since == "champion" else since
    chosen = unknown & (session >= F.lit(first).cast("date")) if first else F.lit(False)
    rows = selected_prices.unionByName(following.drop("chosen"), allowMissingColumns=True)
    known = known_before(rows, champion.window, champion.body, champion.features)
    windows = (
        known.join(F.broadcast(following), ["ticker", "session"], "left")
        .where(F.coalesce("chosen", chosen))
        .select("ticker", "session", F.col("previous_up").alias("previous_day"), *champion.columns)
    )
    predicted = predict_windows(champion.model, windows.dropna(), champion.columns)
    return to_pandas(predicted.drop(*champion.columns)).sort_values(
        ["ticker", "session"], ignore_index=True
    )


def make_forecasts(
    predictions: pd.DataFrame,
    champion: Champion,
    tickers: list[str],
    now: str | None,
    prices_version: int,
    calendar: str | None,
    monitoring: Monitoring,
) -> pd.DataFrame:
    """Make forecasts of the predicted sessions, except of those that the champion was tested on.

    A forecast is in time if it was made before its session opens. Where a session opens at the
    moment that the one before closes, there is no such time: there it is in time up to
    ``grace_minutes`` after the open.

    Args:
        predictions: from `predict_sessions`.
        champion: the version that made them.
        tickers: those whose prices arrived.
        now: the time (ISO, UTC); None: the clock's.
        prices_version: of the table ``prices``.
        calendar: of the exchange; None: by each ticker's ending.
        monitoring: ``grace_minutes``.

    Returns:
        The forecasts frame without outcomes, sorted by ticker and session.

    Raises:
        NotEnoughDataError: there is no session to forecast.
    """
    made = predictions
    not_whole = sorted(set(tickers) - set(made["ticker"]))
    for line in limited(
        [f"{each:<10} no forecast: its newest window is not whole" for each in not_whole]
    ):
        logger.warning("  %s", line)
    known = made["session"] <= pd.Timestamp(champion.last_known)
    if known.all():
        latest = "none" if made.empty else f"{made['session'].max():%Y-%m-%d}"
        raise NotEnoughDataError(
            f"There is no session to forecast: the champion (version {champion.version}, candidate "
            f"{champion.candidate}) was tested on sessions up to {champion.last_known}, and the "
            f"latest session that these prices lead up to is {latest}. Prices and quality are "
            "stored, nothing else. Request a later end, or leave it out.",
            last_known=champion.last_known,
            latest=latest,
        )
    not_new = [
        f"{row.ticker:<10} no forecast for {row.session:%Y-%m-%d}: the champion was tested on "
        f"sessions up to {champion.last_known}"
        for row in made[known].itertuples(index=False)
    ]
    for line in limited(not_new):
        logger.warning("  %s", line)
    new = made[~known].reset_index(drop=True)
    made_at, times = read_clock(now), opening_times(new, calendar)
    grace = pd.Timedelta(monitoring.grace_minutes, "min") * (~times["rested"]).astype(int)
    return new.assign(
        model_version=champion.version,
        candidate=champion.candidate,
        body_kind=champion.body,
        base_rate=champion.profile["share_up"],
        made_at=made_at,
        opens_at=times["opens_at"],
        late=made_at >= times["opens_at"] + grace,
        prices_version=prices_version,
    )[MADE]


def merge_forecasts(
    new_forecasts: pd.DataFrame, stored_forecasts: pd.DataFrame | None, prices: DataFrame
) -> pd.DataFrame:
    """Add new forecasts to the stored ones, and fill in the outcomes that are known.

    The first forecast of a ticker, session and version stays; later ones are dropped. Outcomes
    follow the current prices; one whose session they no longer hold is kept.

    Returns:
        The forecasts frame, sorted by session, ticker and version.
    """
    stored = 0 if stored_forecasts is None else len(stored_forecasts)
    forecasts = (
        pd.concat([stored_forecasts, new_forecasts])
        .drop_duplicates(KEY)
        .sort_values(["session", "ticker", "model_version"], ignore_index=True)
        .reindex(columns=[*MADE, *OUTCOME])
        .astype({"up": "Int8", "late": bool})
    )
    current = forecasts[["ticker", "session"]].merge(
        _outcomes(prices, forecasts), on=["ticker", "session"], how="left", validate="many_to_one"
    )
    is_return = forecasts["body_kind"] == "return"
    current["body"] = current["return_"].where(is_return, current["delta"])
    for name in OUTCOME:
        forecasts[name] = current[name].fillna(forecasts[name])
    logger.info(
        "  %d new forecasts, %d stored before; %d of all are late, %d have an outcome",
        len(forecasts) - stored,
        stored,
        forecasts["late"].sum(),
        forecasts["up"].count(),
    )
    return forecasts


def _outcomes(prices: DataFrame, forecasts: pd.DataFrame) -> pd.DataFrame:
    """Return what is known: ``ticker``, ``session``, ``return_``, ``delta`` and ``up``."""
    first = F.lit(f"{forecasts['session'].min():%Y-%m-%d}").cast("date")
    rows = prices.where(
        F.col("ticker").isin(sorted(forecasts["ticker"].unique())) & (F.col("session") >= first)
    ).select(
        "ticker",
        "session",
        candle_body("return").alias("return_"),
        candle_body("delta").alias("delta"),
    )
    frame = to_pandas(rows.dropna())
    return frame.assign(up=(frame["delta"] > 0).astype("Int8"))


def measure_input_drift(
    selected_prices: DataFrame, champion: Champion, monitoring: Monitoring
) -> dict[str, Any]:
    """Compare the windows that are new to the champion with those that it was trained on.

    Returns:
        See `candlecast.evaluation.drift.measure_drift`.
    """
    windows = make_windows(selected_prices, champion.window, champion.body, champion.features)
    new = windows.where(F.col("session") > F.lit(champion.last_known).cast("date"))
    frame = to_pandas(new.select("session", "up", *champion.columns))
    return measure_drift(champion.profile, frame, monitoring)


def evaluate_champion(
    forecasts: pd.DataFrame,
    champion_summary: dict[str, Any],
    drift: dict[str, Any],
    monitoring: Monitoring,
    evaluation: Evaluation,
    seed: int,
) -> dict[str, Any]:
    """Evaluate the champion on its forecasts, and decide whether it should be retrained.

    Args:
        forecasts: the forecasts frame, of all versions.
        champion_summary: from `describe_champion`.
        drift: from `measure_input_drift`.
        monitoring: thresholds.
        evaluation: ``repetitions`` of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``retrain`` and ``reasons`` of `candlecast.evaluation.track_record.advise_retraining`;
        ``champion``; ``forecasts`` of `candlecast.evaluation.track_record.count_forecasts`;
        ``metrics``, ``calibration`` and ``course`` of
        `candlecast.evaluation.track_record.evaluate_forecasts` on those made in time;
        ``replayed``: the same on late ones; ``former``: one row per other version, of its forecasts
        made in time; ``drift``; ``monitoring``.
    """
    evaluate = partial(evaluate_forecasts, repetitions=evaluation.repetitions, seed=seed)
    is_own = forecasts["model_version"] == champion_summary["version"]
    own = forecasts[is_own]
    live = evaluate(own[~own["late"]])
    former = [
        {
            **{"version": version, "candidate": rows["candidate"].iloc[0]},
            "forecasts": count_forecasts(rows, forecasts),
            "metrics": evaluate(rows[~rows["late"]])["metrics"],
        }
        for version, rows in forecasts[~is_own].groupby("model_version")
    ]
    return {
        **advise_retraining(live["metrics"], drift, monitoring.min_sessions),
        "champion": champion_summary,
        "forecasts": count_forecasts(own, forecasts),
        **live,
        "replayed": evaluate(own[own["late"]]),
        "former": former,
        "drift": drift,
        "monitoring": monitoring.model_dump(),
    }
