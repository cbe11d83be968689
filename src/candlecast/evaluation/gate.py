"""The gate and the verdict: codes and numbers, from a candidate's metrics alone.

`candlecast.reporting.wording` has the sentences. A missing or undefined metric never passes. In
what the functions return, an interval is ``metric`` (its name), ``value``, ``low``, ``high`` and
``confidence``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from candlecast.evaluation.metrics import HARD_BASELINES
from candlecast.parameters import Gate

GATE_METRICS = {"accuracy": "accuracy_minus_best_baseline", "roc_auc": "roc_auc_minus_half"}
"""The metric that the gate checks, by its parameter ``metric``."""


def apply_gate(
    metrics: Mapping[str, float], gate: Gate, champion_version: int | None = None
) -> dict[str, Any]:
    """Decide whether a model may be registered.

    The lower end of the interval of the gate's metric must be above the threshold, on enough
    sessions. The ROC AUC must not be too good to be true. If there is a champion, the lower end of
    the interval of the difference from it must be above minus the margin.

    Args:
        metrics: flat numbers, from `candlecast.evaluation.significance.evaluate_model`.
        gate: the rule.
        champion_version: the current champion, which the model must have been compared with; None:
            the one that it was compared with.

    Returns:
        The parameters of `gate`, ``passed`` (bool) and ``reasons``: one dict per reason, valid
        JSON, with a ``code`` and its numbers:

        * ``too_few_sessions``: ``sessions``, ``required``;
        * ``one_class``, ``constant_probability``, ``constant_direction``;
        * ``too_good``: ``roc_auc``, ``limit``;
        * ``no_interval``: ``metric``;
        * ``not_above_threshold``, or ``above_threshold`` if it passed: an interval, ``sessions``
          and ``threshold``;
        * ``other_champion``: ``champion_version``, which the model was not compared with.

        The comparison with the champion adds its ``champion_version`` to the interval's reason.
    """
    sessions, roc_auc = metrics.get("sessions", 0), metrics.get("roc_auc", 0.5)
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
        (
            roc_auc <= gate.max_roc_auc,
            {"code": "too_good", "roc_auc": roc_auc, "limit": gate.max_roc_auc},
        ),
        _check_low(metrics, GATE_METRICS[gate.metric], gate.threshold, sessions=sessions),
    ]
    compared = metrics.get("champion.version")
    current = compared if champion_version is None else champion_version
    if gate.champion_margin is not None and current is not None:
        champion = {"champion_version": int(current)}
        if compared != current:
            checks.append((False, {"code": "other_champion", **champion}))
        else:
            champion["sessions"] = int(metrics.get("champion.sessions", 0))
            difference = f"{gate.metric}_minus_champion"
            checks.append(_check_low(metrics, difference, -gate.champion_margin, **champion))
    failed = [reason for holds, reason in checks if not holds]
    return {
        **gate.model_dump(),
        "passed": not failed,
        "reasons": failed or [reason for _, reason in checks if "low" in reason],
    }


def _check_low(
    metrics: Mapping[str, float], name: str, threshold: float, **numbers: float
) -> tuple[bool, dict[str, Any]]:
    """Return whether the lower end of an interval is above a threshold, and the reason."""
    interval = _interval(metrics, name)
    if interval is None:
        return False, {"code": "no_interval", "metric": name, **numbers}
    holds = interval["low"] > threshold
    code = "above_threshold" if holds else "not_above_threshold"
    return holds, {"code": code, **interval, "threshold": threshold, **numbers}


def verdict(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return what the metrics are evidence of.

    Evidence is an interval by date that lies above zero: of the accuracy minus the best baseline's
    or, failing that, of the ROC AUC minus 0.5, which is then called ranking only.

    Returns:
        ``code``: ``skill``, ``ranking`` or ``none``; ``best_baseline`` (its name); and the interval
        of each of `GATE_METRICS` under its key, None where there is none.
    """
    accuracy, roc_auc = (_interval(metrics, name) for name in GATE_METRICS.values())
    code = "none"
    if accuracy and accuracy["low"] > 0:
        code = "skill"
    elif roc_auc and roc_auc["low"] > 0:
        code = "ranking"
    best = max(HARD_BASELINES, key=lambda name: metrics[f"{name}.accuracy"])
    return {"code": code, "best_baseline": best, "accuracy": accuracy, "roc_auc": roc_auc}


def _interval(metrics: Mapping[str, float], name: str) -> dict[str, Any] | None:
    """Return the interval of a metric; None if there is none."""
    if not np.isfinite(metrics.get(f"{name}.low", np.nan)):
        return None
    ends = {key: metrics[f"{name}.{key}"] for key in ("low", "high")}
    confidence = metrics["bootstrap_confidence"]
    return {"metric": name, "value": metrics[name], **ends, "confidence": confidence}
