"""How the champion's forecasts turned out, and whether to retrain it: codes and numbers.

`candlecast.reporting.track_record` has the sentences. `candlecast.pipelines.forecast.nodes`
describes the forecasts frame.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from candlecast.evaluation.bootstrap import CONFIDENCE, draw_dates
from candlecast.evaluation.metrics import best_baseline, compute_metrics, hits_of
from candlecast.evaluation.significance import calibration, intervals
from candlecast.models.baselines import add_baselines


def count_forecasts(own: pd.DataFrame, forecasts: pd.DataFrame) -> dict[str, int]:
    """Count the forecasts of one version.

    Args:
        own: the forecasts of that version.
        forecasts: those of all versions; their outcomes show which sessions a ticker has had.

    Returns:
        Of those made in time, how many were ``made``, have an ``outcome``, are ``waiting`` for it
        and are ``without_session`` (their session has no outcome, but a later one of the ticker
        has); and how many are ``late``.
    """
    known = forecasts[forecasts["up"].notna()]
    last_known = own["ticker"].map(known.groupby("ticker")["session"].max())
    late, is_open = own["late"], own["up"].isna()
    passed = is_open & (own["session"] < last_known)
    counted = {
        "made": ~late,
        "outcome": ~late & ~is_open,
        "waiting": ~late & is_open & ~passed,
        "without_session": ~late & passed,
        "late": late,
    }
    return {name: int(rows.sum()) for name, rows in counted.items()}


def evaluate_forecasts(forecasts: pd.DataFrame, *, repetitions: int, seed: int) -> dict[str, Any]:
    """Evaluate one version's forecasts that have an outcome.

    Returns:
        ``metrics``: flat numbers of `candlecast.evaluation.metrics.compute_metrics` and
        `candlecast.evaluation.significance.intervals`, empty without an outcome; ``calibration``:
        one row per bin; ``course``: one row per session date, see `follow_lead`.
    """
    predictions = predictions_of(forecasts)
    if predictions.empty:
        return {"metrics": {}, "calibration": [], "course": []}
    bootstrapped = {"repetitions": repetitions, "seed": seed}
    bins = calibration(predictions, **bootstrapped)
    return {
        "metrics": {**compute_metrics(predictions), **intervals(predictions, **bootstrapped)},
        "calibration": bins.astype(object).where(bins.notna(), None).to_dict("records"),
        "course": follow_lead(predictions, **bootstrapped).to_dict("records"),
    }


def follow_lead(predictions: pd.DataFrame, *, repetitions: int, seed: int) -> pd.DataFrame:
    """Follow the lead over the best baseline through time.

    Returns:
        One row per session date: ``session`` (ISO), ``lead`` (right predictions so far minus those
        of the baseline that is best on all rows) and ``band``: without any difference the lead
        stays within plus and minus this in 95 % of cases, at any one date. It grows with the square
        root of the dates, up to what the bootstrap of dates gives for all of them. Nothing with
        fewer than 20 dates.
    """
    hits, rule = hits_of(predictions), hits_of(predictions, best_baseline(predictions))
    lead = pd.DataFrame({"lead": hits.astype(float) - rule}, index=predictions.index)
    bootstrap = draw_dates(predictions["session"], lead, repetitions, seed)
    if bootstrap is None:
        return pd.DataFrame(columns=["session", "lead", "band"])
    total = lead.groupby(predictions["session"].dt.strftime("%Y-%m-%d"))["lead"].sum().cumsum()
    spread = float(norm.ppf((1 + CONFIDENCE) / 2)) * bootstrap.sums(lead)["lead"].std()
    grown = np.sqrt(np.arange(1, len(total) + 1) / len(total))
    return total.reset_index().assign(band=spread * grown)


def predictions_of(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Make the predictions frame of `candlecast.evaluation.metrics` from forecasts with outcome."""
    known = forecasts[forecasts["up"].notna()]
    return add_baselines(
        known[["ticker", "session", "body", "return_", "probability"]].assign(
            up=known["up"].astype(int)
        ),
        base_rate=known["base_rate"],
        previous_up=known["previous_day"] == 1,
    )


def advise_retraining(
    metrics: Mapping[str, float], drift: Mapping[str, Any], min_sessions: int
) -> dict[str, Any]:
    """Decide whether the champion should be retrained.

    Args:
        metrics: of its forecasts made in time with an outcome; empty if there are none.
        drift: from `candlecast.evaluation.drift.measure_drift`.
        min_sessions: the fewest dates to decide on.

    Returns:
        ``retrain`` (true, false, or null while it is too early to tell) and ``reasons``: one dict
        per reason, valid JSON, with a ``code`` and its numbers. To retrain:

        * ``inputs_drifted``: ``drifted`` of ``features``, and ``name``, ``psi`` and ``limit`` of
          the one that drifted most;
        * ``share_up_shifted``: ``share_up_trained``, ``share_up``;
        * ``worse_than_baseline``: ``value``, ``low`` and ``high`` of accuracy minus best baseline.

        While it is too early: ``too_few_outcomes`` and ``too_few_inputs``: ``sessions``,
        ``required``.
    """
    outcomes, inputs = int(metrics.get("sessions", 0)), drift["sessions"]
    reasons = _drift_reasons(drift) if inputs >= min_sessions else []
    difference = "accuracy_minus_best_baseline"
    if outcomes >= min_sessions and metrics.get(f"{difference}.high", 0.0) < 0:
        ends = {end: metrics[f"{difference}.{end}"] for end in ("low", "high")}
        reasons.append({"code": "worse_than_baseline", "value": metrics[difference], **ends})
    if reasons:
        return {"retrain": True, "reasons": reasons}
    few = [
        {"code": code, "sessions": sessions, "required": min_sessions}
        for code, sessions in (("too_few_outcomes", outcomes), ("too_few_inputs", inputs))
        if sessions < min_sessions
    ]
    return {"retrain": None if few else False, "reasons": few}


def _drift_reasons(drift: Mapping[str, Any]) -> list[dict[str, Any]]:
    reasons: list[dict[str, Any]] = []
    if drifted := [each for each in drift["features"] if each["drifted"]]:
        most = max(drifted, key=lambda each: each["psi"])
        reasons.append(
            {
                "code": "inputs_drifted",
                "drifted": len(drifted),
                "features": len(drift["features"]),
                "name": most["name"],
                "psi": most["psi"],
                "limit": max(drift["max_psi"], drift["psi_chance"]),
            }
        )
    if drift["share_up_drifted"]:
        shares = {name: drift[name] for name in ("share_up_trained", "share_up")}
        reasons.append({"code": "share_up_shifted", **shares})
    return reasons
