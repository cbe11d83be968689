"""Pages and cards: templates filled in, and numbers as a reader sees them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from candlecast.evaluation.metrics import HARD_BASELINES, SOFT_BASELINES

BASELINES = (*HARD_BASELINES, *SOFT_BASELINES)

LABELS = {
    "accuracy_minus_best_baseline": "accuracy minus best baseline",
    "accuracy_minus_champion": "accuracy minus champion",
    "roc_auc": "ROC AUC",
    "roc_auc_minus_half": "ROC AUC minus 0.5",
    "roc_auc_minus_champion": "ROC AUC minus champion",
    "matthews_corrcoef": "Matthews correlation",
    "f1": "F1",
    "brier_score_loss": "Brier score",
    "ece": "Calibration error",
}
"""Names that are more than the key in words."""


def render(template: str, metrics: Mapping[str, float], **content: Any) -> str:
    """Fill in a template; what it names and is not given is an error, and values are escaped."""
    environment = Environment(
        loader=PackageLoader("candlecast.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        f.__name__: f for f in (words, sentence, number, percent, p_value, cell)
    }
    return environment.get_template(template).render(
        metrics=metrics,
        metric=lambda name: metric_text(metrics, name),
        baselines=[name for name in BASELINES if f"{name}.accuracy" in metrics],
        **content,
    )


def accuracies(metrics: Mapping[str, float]) -> pd.DataFrame:
    """Table the accuracies: one row per rule, the model first.

    Returns:
        ``name``, ``accuracy``, and ``low`` and ``high`` (NaN where there is no interval).
    """
    rules = [name for name in BASELINES if f"{name}.accuracy" in metrics]
    names = {"accuracy": "model", **{f"{name}.accuracy": words(name) for name in rules}}
    return pd.DataFrame(
        {
            "name": name,
            "accuracy": metrics[key],
            "low": metrics.get(f"{key}.low", np.nan),
            "high": metrics.get(f"{key}.high", np.nan),
        }
        for key, name in names.items()
    )


def words(name: str) -> str:
    """A key in words: ``roc_auc`` is ROC AUC, ``always_up`` is always up."""
    return LABELS.get(name, name.replace("_", " "))


def sentence(name: str) -> str:
    """A key in words, with a capital."""
    text = words(name)
    return text[:1].upper() + text[1:]


def cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """A number with so many digits; never a negative zero."""
    return f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{number(100 * value, digits)}%"


def p_value(value: float) -> str:
    """A p-value; a tiny one is never 0."""
    return number(value) if value >= 0.001 else "<0.001"


def metric_text(metrics: Mapping[str, float], name: str) -> str:
    """A figure with its interval, ``0.518 [0.497, 0.538]``; in words when it is undefined.

    >>> metric_text({"accuracy": 0.5176, "accuracy.low": 0.497, "accuracy.high": 0.538}, "accuracy")
    '0.518 [0.497, 0.538]'
    >>> metric_text({"classes": 1.0}, "roc_auc")
    'undefined: only one class occurred'
    """
    if name not in metrics:
        return "undefined: only one class occurred" if metrics["classes"] == 1 else "undefined"
    signed = "_minus_" in name or name.endswith("_skill")
    value, *ends = (
        number(metrics[key], signed=signed)
        for key in (name, f"{name}.low", f"{name}.high")
        if key in metrics
    )
    return f"{value} [{', '.join(ends)}]" if ends else value
