"""The gate: whether a candidate may be registered, from its metrics alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from candlecast.evaluation.metrics import HARD_BASELINES

GATE_METRICS = {
    "accuracy": ("accuracy_minus_best_baseline", "Accuracy less the best baseline's"),
    "roc_auc": ("roc_auc_minus_half", "ROC AUC less 0.5"),
}
"""What the gate can look at: the figure in the metrics, and its name in a sentence."""

CHAMPION_METRICS = {
    "accuracy": ("accuracy_minus_champion", "Accuracy less the champion's"),
    "roc_auc": ("roc_auc_minus_champion", "ROC AUC less the champion's"),
}
"""The same, for the comparison with the champion."""


def apply_gate(
    metrics: Mapping[str, float], gate: Mapping[str, Any], champion_version: int | None = None
) -> dict[str, Any]:
    """Decide whether a model may be registered, from its flat metrics alone.

    It may when the lower end of the interval of the gate's figure is above the threshold, on enough
    sessions, and when it is not worse than the champion, if there is one, by more than the margin:
    the lower end of the difference's interval is above the negative margin. Whatever is missing,
    undefined or constant fails it.

    Args:
        metrics: flat numbers, as `candlecast.evaluation.significance.evaluate` returns them.
        gate: ``metric`` (``accuracy``: over the best of the constant and previous-day baselines,
            or ``roc_auc``: over 0.5), ``threshold`` (that the lower end must exceed),
            ``min_sessions`` (distinct dates) and ``champion_margin`` (None: the champion is not
            asked about).
        champion_version: the champion of now, which must be the one compared with; None: whichever
            was.

    Returns:
        ``passed`` (bool) and ``reasons`` (sentences: why it failed, or the one it passed for).

    Raises:
        ValueError: the gate names another metric.
    """
    if gate["metric"] not in GATE_METRICS:
        raise ValueError(f"The gate's metric {gate['metric']!r} is none of {list(GATE_METRICS)}.")
    figure, name = GATE_METRICS[gate["metric"]]
    low = _number(metrics, f"{figure}.low")
    against = [
        (
            _number(metrics, "sessions") >= gate["min_sessions"],
            f"Scored on {_number(metrics, 'sessions'):.0f} sessions; "
            f"at least {gate['min_sessions']} are needed.",
        ),
        (_number(metrics, "classes") > 1, "Only one class occurred: skill can't be measured."),
        (
            _number(metrics, "distinct_probabilities") > 1,
            "The model gives every session the same probability.",
        ),
        (
            gate["metric"] != "accuracy" or 0 < _number(metrics, "predicted_up_share") < 1,
            "The model predicts the same direction in every session.",
        ),
        (
            low > gate["threshold"],
            f"{name} is {_interval(metrics, figure)}: the lower end is not above "
            f"{gate['threshold']:.4f}."
            if np.isfinite(low)
            else f"{name} has no interval: it is undefined on these sessions.",
        ),
    ]
    passed = [
        f"{name} is {_interval(metrics, figure)} on {_number(metrics, 'sessions'):.0f} sessions: "
        f"the lower end is above {gate['threshold']:.4f}."
    ]
    compared = metrics.get("champion.version", champion_version)
    if gate["champion_margin"] is not None and compared is not None:
        holds, sentence = _against_champion(metrics, gate, compared, champion_version)
        against.append((holds, sentence))
        passed.append(sentence)
    failed = [sentence for holds, sentence in against if not holds]
    return {"passed": not failed, "reasons": failed or passed}


def _against_champion(
    metrics: Mapping[str, float], gate: Mapping[str, Any], compared: float, now: int | None
) -> tuple[bool, str]:
    """Whether a model is not worse than the champion by more than the margin, in a sentence."""
    figure, name = CHAMPION_METRICS[gate["metric"]]
    if now is not None and metrics.get("champion.version") != now:
        return False, (
            f"The champion is version {now} now, and it was not compared with that: train a "
            "candidate again."
        )
    low, margin = _number(metrics, f"{figure}.low"), gate["champion_margin"]
    if not np.isfinite(low):
        return False, (
            f"{name} (version {compared:.0f}) has no interval: too few of the test sessions are "
            "new to the champion."
        )
    holds = bool(low > -margin)
    return holds, (
        f"{name} (version {compared:.0f}) is {_interval(metrics, figure)} on "
        f"{_number(metrics, 'champion.sessions'):.0f} sessions: the lower end is "
        f"{'above' if holds else 'not above'} {-margin:.4f}."
    )


def verdict(metrics: Mapping[str, float]) -> str:
    """Say in one sentence what the metrics are worth; it starts "Evidence" or "No evidence".

    Evidence is an interval by date that lies above zero: of the accuracy over the best baseline's,
    or, failing that, of the ROC AUC over 0.5, which is then called ranking only.
    """
    sessions = f"{_number(metrics, 'sessions'):.0f} sessions"
    lead, ranking = (figure for figure, _ in GATE_METRICS.values())
    if not _number(metrics, "classes") > 1:
        return f"No evidence of skill: only one class occurred in {sessions}, ROC AUC is undefined."
    if not _number(metrics, "distinct_probabilities") > 1:
        return f"No evidence of skill: the model gives one and the same probability in {sessions}."
    if not np.isfinite(_number(metrics, f"{lead}.low")):
        return f"No evidence of skill: {sessions} are too few for an interval."
    best = max(HARD_BASELINES, key=lambda name: _number(metrics, f"{name}.accuracy"))
    numbers = (
        f"over {sessions} the accuracy is {_number(metrics, 'accuracy'):.4f} against "
        f"{_number(metrics, f'{best}.accuracy'):.4f} of the best baseline "
        f"({best.replace('_', ' ')}), a difference of {_interval(metrics, lead)}, and the ROC AUC "
        f"less 0.5 is {_interval(metrics, ranking)}."
    )
    if _number(metrics, f"{lead}.low") > 0:
        return f"Evidence of skill: {numbers}"
    if _number(metrics, f"{ranking}.low") > 0:
        return f"Evidence of ranking only, not of direction: {numbers}"
    return f"No evidence of skill: {numbers}"


def _number(metrics: Mapping[str, float], name: str) -> float:
    value = metrics.get(name)
    return np.nan if value is None else float(value)


def _interval(metrics: Mapping[str, float], figure: str) -> str:
    value, low, high = (_number(metrics, figure + end) for end in ("", ".low", ".high"))
    confidence = _number(metrics, "bootstrap_confidence")
    return f"{value:+.4f} ({confidence:.0%} interval by date {low:+.4f} to {high:+.4f})"
