"""The gate and the verdict: codes and numbers, taken from a candidate's metrics alone.

`candlecast.reporting.wording` has the sentences. A missing or undefined metric never passes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from candlecast.evaluation.metrics import HARD_BASELINES
from candlecast.parameters import Gate

GATE_METRICS = {"accuracy": "accuracy_minus_best_baseline", "roc_auc": "roc_auc_minus_half"}
"""What the gate can look at, by its parameter ``metric``."""

CHAMPION_METRICS = {"accuracy": "accuracy_minus_champion", "roc_auc": "roc_auc_minus_champion"}
"""The same, for the comparison with the champion."""


def apply_gate(
    metrics: Mapping[str, float], gate: Gate, champion_version: int | None = None
) -> dict[str, Any]:
    """Decide whether a model may be registered.

    It may when the lower end of the interval of the gate's metric is above the threshold, on enough
    sessions, and when it is not worse than the champion, if there is one, by more than the margin:
    the lower end of the difference's interval is above the negative margin.

    Args:
        metrics: flat numbers, as `candlecast.evaluation.significance.evaluate` returns them.
        gate: the rule.
        champion_version: the current champion, which must be the one compared with; None: whichever
            was.

    Returns:
        ``passed`` (bool) and ``reasons``: one dict per reason, valid JSON, with its ``code`` and
        the numbers it is about. Why it failed:

        * ``too_few_sessions``: ``sessions``, ``required``;
        * ``one_class``, ``constant_probability``, ``constant_direction``: no numbers;
        * ``no_interval``: ``metric``;
        * ``not_above_threshold``: `an interval`, ``threshold``;
        * ``other_champion``: ``champion_version``, which the model was not compared with;
        * ``no_champion_interval``: ``metric``, ``champion_version``;
        * ``worse_than_champion``: `an interval`, ``threshold``, ``champion_version``.

        Why it passed: ``above_threshold`` and, where there is a champion,
        ``not_worse_than_champion``, with the numbers of their opposites. `An interval` is
        ``metric``, ``value``, ``low``, ``high``, ``confidence`` and ``sessions``.
    """
    sessions = metrics.get("sessions", 0)
    checks: list[tuple[bool, dict[str, Any]]] = [
        (
            sessions >= gate.min_sessions,
            {"code": "too_few_sessions", "sessions": sessions, "required": gate.min_sessions},
        ),
        (metrics.get("classes", 0) > 1, {"code": "one_class"}),
        (metrics.get("distinct_probabilities", 0) > 1, {"code": "constant_probability"}),
        (
            gate.metric != "accuracy" or 0 < metrics.get("predicted_up_share", 0) < 1,
            {"code": "constant_direction"},
        ),
        _against_threshold(metrics, gate, sessions),
    ]
    compared = metrics.get("champion.version")
    current = compared if champion_version is None else champion_version
    if gate.champion_margin is not None and current is not None:
        checks.append(_against_champion(metrics, gate, int(current)))
    failed = [reason for holds, reason in checks if not holds]
    return {
        "passed": not failed,
        "reasons": failed or [reason for _, reason in checks if "low" in reason],
    }


def _against_threshold(
    metrics: Mapping[str, float], gate: Gate, sessions: float
) -> tuple[bool, dict[str, Any]]:
    name = GATE_METRICS[gate.metric]
    if not _is_bounded(metrics, name):
        return False, {"code": "no_interval", "metric": name}
    holds = metrics[f"{name}.low"] > gate.threshold
    return holds, {
        "code": "above_threshold" if holds else "not_above_threshold",
        **_interval(metrics, name),
        "sessions": sessions,
        "threshold": gate.threshold,
    }


def _against_champion(
    metrics: Mapping[str, float], gate: Gate, current: int
) -> tuple[bool, dict[str, Any]]:
    name = CHAMPION_METRICS[gate.metric]
    if metrics.get("champion.version") != current:
        return False, {"code": "other_champion", "champion_version": current}
    if not _is_bounded(metrics, name):
        return False, {
            "code": "no_champion_interval",
            "metric": name,
            "champion_version": current,
        }
    threshold = -(gate.champion_margin or 0.0)
    holds = metrics[f"{name}.low"] > threshold
    return holds, {
        "code": "not_worse_than_champion" if holds else "worse_than_champion",
        **_interval(metrics, name),
        "sessions": metrics["champion.sessions"],
        "threshold": threshold,
        "champion_version": current,
    }


def verdict(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return what the metrics are worth: a code and the numbers behind it.

    Evidence is an interval by date that lies above zero: of the accuracy minus the best baseline's
    or, failing that, of the ROC AUC minus 0.5, which is then called ranking only.

    Returns:
        ``code``: ``skill``, ``ranking`` or ``none``; without an interval ``one_class``,
        ``constant_probability`` or ``too_few_sessions``. ``sessions`` and ``best_baseline`` (its
        name). With intervals also ``accuracy`` and ``roc_auc``, each with its ``metric``,
        ``value``, ``low``, ``high`` and ``confidence``.
    """
    result: dict[str, Any] = {
        "sessions": metrics["sessions"],
        "best_baseline": max(HARD_BASELINES, key=lambda name: metrics[f"{name}.accuracy"]),
    }
    if not metrics["classes"] > 1:
        return {"code": "one_class", **result}
    if not metrics["distinct_probabilities"] > 1:
        return {"code": "constant_probability", **result}
    lead, ranking = GATE_METRICS.values()
    if not (_is_bounded(metrics, lead) and _is_bounded(metrics, ranking)):
        return {"code": "too_few_sessions", **result}
    code = "none"
    if metrics[f"{ranking}.low"] > 0:
        code = "ranking"
    if metrics[f"{lead}.low"] > 0:
        code = "skill"
    intervals = {key: _interval(metrics, name) for key, name in GATE_METRICS.items()}
    return {"code": code, **result, **intervals}


def _is_bounded(metrics: Mapping[str, float], name: str) -> bool:
    return bool(np.isfinite(metrics.get(f"{name}.low", np.nan)))


def _interval(metrics: Mapping[str, float], name: str) -> dict[str, Any]:
    return {
        "metric": name,
        "value": metrics[name],
        "low": metrics[f"{name}.low"],
        "high": metrics[f"{name}.high"],
        "confidence": metrics["bootstrap_confidence"],
    }
