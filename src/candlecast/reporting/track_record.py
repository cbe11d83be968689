"""The page of the champion's track record: its sentences and figures."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from candlecast.evaluation.gate import verdict
from candlecast.evaluation.metrics import BASELINES
from candlecast.reporting import figures, wording
from candlecast.reporting.html import LONGEST, accuracies, metric_text, render

LATEST = 20
"""Rows in the table of the latest outcomes."""

HEADLINES = {
    True: "Retrain the champion",
    False: "No reason to retrain",
    None: "Too early to tell",
}

ADVICE = {
    True: "Because {}.",
    False: "The inputs and the share of ups resemble those of training, and the predictions are "
    "not clearly worse than the best simple rule.",
    None: "So far there are {}.",
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
    champion, enough = track_record["champion"], track_record["monitoring"]["min_sessions"]
    own = forecasts[forecasts["model_version"] == champion["version"]]
    own = own.sort_values(["session", "ticker"])
    newest = own.drop_duplicates("ticker", keep="last").sort_values("ticker")
    known = own[own["up"].notna() & ~own["late"]].tail(LATEST).iloc[::-1]
    parts = {"live": track_record, "replayed": track_record["replayed"]}
    return render(
        "track_record.html.j2",
        track_record["metrics"],
        record=track_record,
        headline=HEADLINES[track_record["retrain"]],
        advice=advice_text(track_record["retrain"], track_record["reasons"]),
        enough=enough,
        parts=parts,
        results={name: results_text(part["metrics"], enough) for name, part in parts.items()},
        right=right_text,
        rules=[name for name in BASELINES if name != "logistic"],
        forecast=len(newest),
        newest=_furthest(newest).to_dict("records"),
        outcomes=known.to_dict("records"),
        sees=wording.features_text(champion["features"], champion["window"], champion["body"]),
        estimator=wording.estimator_text(champion["estimator"]),
        report_figures=_draw_figures(track_record, parts),
    )


def _furthest(newest: pd.DataFrame) -> pd.DataFrame:
    """Return the `LONGEST` forecasts whose probability is furthest from 50 %, from high to low."""
    if len(newest) <= LONGEST:
        return newest
    furthest = (newest["probability"] - 0.5).abs().nlargest(LONGEST).index
    return newest.loc[furthest].sort_values("probability", ascending=False)


def advice_text(retrain: bool | None, reasons: list[dict[str, Any]]) -> str:
    """Return the sentence for a decision of `advise_retraining`."""
    *others, last = [REASONS[reason["code"]].format(**reason) for reason in reasons] or [""]
    comma = "," if len(others) > 1 else ""
    phrases = f"{', '.join(others)}{comma} and {last}" if others else last
    return ADVICE[retrain].format(phrases)


def right_text(metrics: Mapping[str, float]) -> str:
    """Return how many forecasts were right, as a count."""
    rows = metrics["rows"]
    return f"{rows * metrics['accuracy']:,.0f} of {wording.counted(rows, 'forecast')}"


def results_text(metrics: Mapping[str, float], enough: int) -> str:
    """Return how often the champion was right; below `enough` sessions, as a count alone."""
    if not metrics:
        return ""
    sessions = wording.counted(metrics["sessions"], "session")
    if metrics["sessions"] < enough:
        return (
            f"Right in {right_text(metrics)}, on {sessions}. So few sessions show nothing: shares, "
            f"simple rules and intervals follow from {enough} on."
        )
    return (
        f"Right {wording.comparison_text(verdict(metrics), metrics)} These are "
        f"{wording.counted(metrics['rows'], 'forecast')} of {sessions}."
    )


def _draw_figures(
    track_record: dict[str, Any], parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Markup]:
    """Draw the figures that there are enough sessions for, as SVG by name."""
    drift, drawn = track_record["drift"], {}
    enough = track_record["monitoring"]["min_sessions"]
    for name, part in parts.items():
        metrics = part["metrics"]
        if metrics.get("sessions", 0) < enough:
            continue
        table = accuracies(metrics).replace("model", "champion")
        drawn[f"{name}-accuracy"] = (
            figures.draw_accuracy(table, metrics["best_baseline.accuracy"], "accuracy so far"),
            "Accuracy of the champion and of every baseline",
            wording.listing(table, "{name} {accuracy:.3f}"),
        )
        table = pd.DataFrame(part["calibration"])
        drawn[f"{name}-calibration"] = (
            figures.draw_calibration(table),
            "Calibration",
            f"Mean gap between probability and share of ups: {metric_text(metrics, 'ece')}.",
        )
        if part["course"]:
            table = pd.DataFrame(part["course"])
            drawn[f"{name}-course"] = (
                figures.draw_course(table),
                "Right predictions ahead of the best simple rule, through time",
                wording.listing(table.tail(1), "On {session}: {lead:+.0f}, band ±{band:.0f}"),
            )
    if drift["sessions"] >= enough:
        drawn["drift"] = (
            figures.draw_drift(drift["features"], drift["max_psi"], drift["psi_chance"]),
            "Population stability index of every feature",
            wording.listing(pd.DataFrame(drift["features"]), "{name} {psi:.3f}"),
        )
    return {name: figures.svg(name, *drawing) for name, drawing in drawn.items()}
