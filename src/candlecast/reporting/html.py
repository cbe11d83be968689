"""Templates filled in, and numbers as a reader sees them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from candlecast.evaluation.metrics import BASELINES

LABELS = {
    "roc_auc": "ROC AUC",
    "roc_auc_minus_half": "ROC AUC minus 0.5",
    "roc_auc_minus_champion": "ROC AUC minus champion",
    "matthews_corrcoef": "Matthews correlation",
    "f1": "F1",
    "brier_score_loss": "Brier score",
    "ece": "calibration error",
}
"""Names that are not simply the key in words."""

LONGEST = 30
"""Rows of a table of tickers, at most."""


def render(template: str, metrics: Mapping[str, float], **content: Any) -> str:
    """Fill in a template. Values are escaped; a name without a value is an error."""
    filled = _environment().get_template(template)
    return filled.render(
        metrics=metrics,
        metric=lambda name: metric_text(metrics, name),
        baselines=_baselines(metrics),
        **content,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("candlecast.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown = (words, sentence, number, whole, percent, p_value, listed, cell, metric_text)
    environment.filters |= {function.__name__: function for function in shown}
    return environment


def accuracies(metrics: Mapping[str, float]) -> pd.DataFrame:
    """Return the accuracies, one row per rule, the model first.

    Returns:
        ``name``, ``accuracy``, and ``low`` and ``high`` (NaN where there is no interval).
    """
    rules = {"model": "accuracy", **{name: f"{name}.accuracy" for name in _baselines(metrics)}}
    return pd.DataFrame(
        {
            "name": words(name),
            "accuracy": metrics[key],
            "low": metrics.get(f"{key}.low", np.nan),
            "high": metrics.get(f"{key}.high", np.nan),
        }
        for name, key in rules.items()
    )


def _baselines(metrics: Mapping[str, float]) -> list[str]:
    return [name for name in BASELINES if f"{name}.accuracy" in metrics]


def words(name: str) -> str:
    """Return a key in words: ``roc_auc`` is ROC AUC, ``always_up`` is always up."""
    return LABELS.get(name, name.replace("_", " "))


def sentence(name: str) -> str:
    """Return a key in words, with a capital."""
    text = words(name)
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str], limit: int = 12) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """Return a number with so many decimals; never a negative zero."""
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def whole(value: float) -> str:
    """Return a whole number, with commas between thousands."""
    return f"{value:,.0f}"


def percent(value: float, digits: int = 1) -> str:
    """Return a share in percent."""
    return f"{number(100 * value, digits)}%"


def p_value(value: float) -> str:
    """Return a p-value; a tiny one is never 0."""
    return number(value) if value >= 0.001 else "<0.001"


def metric_text(metrics: Mapping[str, float], name: str, digits: int = 3) -> str:
    """Return a metric with its interval, ``0.518 [0.497, 0.538]``; in words if it is undefined.

    >>> metric_text({"accuracy": 0.5176, "accuracy.low": 0.497, "accuracy.high": 0.538}, "accuracy")
    '0.518 [0.497, 0.538]'
    >>> metric_text({"classes": 1.0}, "roc_auc")
    'undefined: only one class occurred'
    """
    if name not in metrics:
        return "undefined: only one class occurred" if metrics["classes"] == 1 else "undefined"
    signed = "_minus_" in name or name.endswith(("_skill", "_increase", "_decrease"))
    value, *ends = (
        number(metrics[key], digits, signed)
        for key in (name, f"{name}.low", f"{name}.high")
        if key in metrics
    )
    return f"{value} [{', '.join(ends)}]" if ends else value
