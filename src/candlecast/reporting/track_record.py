"""The page of the champion's track record: its sentences and figures."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from candlecast.evaluation.gate import verdict
from candlecast.evaluation.track_record import made_late
from candlecast.reporting import figures, wording
from candlecast.reporting.html import accuracies, metric_text, percent, render, words

LATEST = 20
"""Rows in the table of the latest outcomes."""

HEADLINES = {
    True: "Retrain the champion",
    False: "No reason to retrain",
    None: "Too early to tell",
}

ADVICE = {
    True: "Retrain: {}.",
    False: "No reason to retrain: the inputs and the share of ups resemble those of training, and "
    "the predictions are not clearly worse than the best simple rule.",
    None: "Too early to tell whether to retrain. So far there are {}.",
}

REASONS = {
    "inputs_drifted": "the inputs have drifted ({drifted} of {features} features; {name} most, "
    "with a stability index of {psi:.2f}, above {limit:.2f})",
    "share_up_shifted": "the share of ups has shifted from {share_up_trained:.1%} in training to "
    "{share_up:.1%}",
    "worse_than_baseline": "the predictions are clearly worse than the best simple rule (accuracy "
    "minus best baseline {value:+.3f} [{low:+.3f}, {high:+.3f}])",
    "too_few_outcomes": "outcomes for {sessions:,} of the {required} sessions required",
    "too_few_inputs": "new inputs for {sessions:,} of the {required} sessions required",
}
"""The phrase for each code of `candlecast.evaluation.track_record.advise_retraining`."""


def write_track_record(track_record: dict[str, Any], forecasts: pd.DataFrame) -> str:
    """Write the track record as one HTML page that needs nothing else.

    Args:
        track_record: from `candlecast.pipelines.forecast.nodes.evaluate_champion`.
        forecasts: the forecasts frame, of all versions.
    """
    metrics, champion = track_record["metrics"], track_record["champion"]
    own = forecasts[forecasts["model_version"] == champion["version"]]
    own = own.assign(late=made_late(own)).sort_values(["session", "ticker"])
    newest = own.drop_duplicates("ticker", keep="last").sort_values("ticker")
    known = own[own["up"].notna()].tail(LATEST).iloc[::-1]
    return render(
        "track_record.html.j2",
        metrics,
        record=track_record,
        headline=HEADLINES[track_record["retrain"]],
        advice=advice_text(track_record["retrain"], track_record["reasons"]),
        results=_results(metrics) if metrics else "",
        newest=newest.to_dict("records"),
        outcomes=known.to_dict("records"),
        sees=wording.features_text(champion["features"], champion["window"], champion["body"]),
        estimator=wording.estimator_text(champion["estimator"]),
        report_figures=_draw_figures(track_record),
    )


def advice_text(retrain: bool | None, reasons: list[dict[str, Any]]) -> str:
    """Return the sentence for a decision of `advise_retraining`."""
    *others, last = [REASONS[reason["code"]].format(**reason) for reason in reasons] or [""]
    comma = "," if len(others) > 1 else ""
    phrases = f"{', '.join(others)}{comma} and {last}" if others else last
    return ADVICE[retrain].format(phrases)


def _results(metrics: Mapping[str, float]) -> str:
    """Return how often the champion was right so far, without statistics."""
    best = verdict(metrics)["best_baseline"]
    return (
        f"On {wording.counted(metrics['sessions'], 'session')} so far, the champion predicted the "
        f"right direction in {percent(metrics['accuracy'])} of "
        f"{wording.counted(metrics['rows'], 'forecast')}; the best simple rule, “{words(best)}”, "
        f"in {percent(metrics['best_baseline.accuracy'])}."
    )


def _draw_figures(track_record: dict[str, Any]) -> dict[str, Markup]:
    """Draw the figures that there are enough sessions for, as SVG by name."""
    metrics, drift = track_record["metrics"], track_record["drift"]
    enough, drawn = track_record["monitoring"]["min_sessions"], {}
    if metrics:
        table = accuracies(metrics).replace("model", "champion")
        drawn["accuracy"] = (
            figures.draw_accuracy(table, metrics["best_baseline.accuracy"], "accuracy so far"),
            "Accuracy of the champion and of every baseline",
            wording.listing(table, "{name} {accuracy:.3f}"),
        )
    if metrics.get("sessions", 0) >= enough:
        table = pd.DataFrame(track_record["calibration"])
        drawn["calibration"] = (
            figures.draw_calibration(table),
            "Calibration",
            f"Mean gap between probability and share of ups: {metric_text(metrics, 'ece')}.",
        )
    if drift["sessions"] >= enough:
        drawn["drift"] = (
            figures.draw_drift(drift["features"], drift["max_psi"], drift["psi_chance"]),
            "Population stability index of every feature",
            wording.listing(pd.DataFrame(drift["features"]), "{name} {psi:.3f}"),
        )
    return {name: figures.svg(name, *drawing) for name, drawing in drawn.items()}
