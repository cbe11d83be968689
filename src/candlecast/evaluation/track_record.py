"""How the champion's forecasts turned out, and whether to retrain it: codes and numbers.

`candlecast.reporting.track_record` has the sentences. `candlecast.pipelines.forecast.nodes`
describes the forecasts frame.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from candlecast.models.baselines import add_baselines


def made_late(forecasts: pd.DataFrame) -> "pd.Series[bool]":
    """Return whether a forecast was made after the day of its session, UTC: its outcome existed."""
    made: pd.Series[Any] = forecasts["made_at"].dt.tz_convert("UTC").dt.tz_localize(None)
    return made >= forecasts["session"] + pd.Timedelta(days=1)


def count_forecasts(own: pd.DataFrame, forecasts: pd.DataFrame) -> dict[str, int]:
    """Count the forecasts of one version.

    Args:
        own: the forecasts of that version.
        forecasts: those of all versions; their outcomes show which sessions a ticker has had.

    Returns:
        How many were ``made``, have an ``outcome``, are ``waiting`` for it, are ``without_session``
        (their session has no outcome, but a later one of the ticker has) and were ``made_late``.
    """
    known = forecasts[forecasts["up"].notna()]
    last_known = own["ticker"].map(known.groupby("ticker")["session"].max())
    is_open = own["up"].isna()
    passed = is_open & (own["session"] < last_known)
    return {
        "made": len(own),
        "outcome": int((~is_open).sum()),
        "waiting": int((is_open & ~passed).sum()),
        "without_session": int(passed.sum()),
        "made_late": int(made_late(own).sum()),
    }


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
        metrics: of its forecasts with an outcome; empty if there are none.
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
