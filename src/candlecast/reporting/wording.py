"""Sentences for what `candlecast.evaluation.gate` returns, and texts that several pages share."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from candlecast.evaluation.bootstrap import CONFIDENCE
from candlecast.features.computing import find_features
from candlecast.reporting.html import listed, percent, sentence, words

REASONS = {
    "too_few_sessions": "Evaluated on {sessions:,.0f} sessions; at least {required:,} are "
    "required.",
    "one_class": "Only one class occurred, so skill cannot be measured.",
    "constant_probability": "The model predicts the same probability for every session.",
    "constant_direction": "The model predicts the same direction for every session.",
    "too_good": "ROC AUC is {roc_auc:.4f}. Above {limit:.4f} a forecast of daily candles is too "
    "good to be true: most likely a feature knows what the model should predict. Look for that "
    "first.",
    "no_interval": "{name} has no interval: there are too few sessions, or it is undefined.",
    "above_threshold": "{name} is {interval} on {sessions:,.0f} sessions: the lower end is above "
    "{threshold:.4f}.",
    "not_above_threshold": "{name} is {interval} on {sessions:,.0f} sessions: the lower end is "
    "not above {threshold:.4f}.",
    "other_champion": "The champion is now version {champion_version}, and this candidate was not "
    "compared with it: train a new candidate.",
}
"""The sentence for each code of a gate's decision."""

HEADLINES = {
    "skill": "Evidence of skill.",
    "ranking": "Evidence of ranking only, not of direction.",
}
"""The headline for a verdict's code; any other code is no evidence."""

ESTIMATORS = {"logistic": "logistic regression", "boosting": "gradient boosting"}
"""The words for an estimator's name; others stand for themselves."""

MEANINGS = {
    "skill": "It beat that rule by more than chance explains.",
    "ranking": "Its probabilities rank sessions better than chance does, but its predictions of "
    "the direction were not shown to beat that rule.",
}


def gate_reasons(reasons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each reason of a gate's decision."""
    sentences = []
    for reason in reasons:
        name = sentence(reason.get("metric", ""))
        if "champion_version" in reason:
            name += f" (version {reason['champion_version']})"
        interval = _interval(reason) if "low" in reason else ""
        sentences.append(REASONS[reason["code"]].format(**reason, name=name, interval=interval))
    return sentences


def verdict_headline(verdict: Mapping[str, Any], gate_decision: Mapping[str, Any]) -> str:
    """Return the verdict in a few words: too good, evidence of something, or no evidence."""
    if any(reason["code"] == "too_good" for reason in gate_decision["reasons"]):
        return "Too good to be true."
    return HEADLINES.get(verdict["code"], "No evidence of skill.")


def verdict_numbers(verdict: Mapping[str, Any], gate_metric: str) -> str:
    """Return the interval that the gate does not check; nothing if there is none."""
    interval = verdict["roc_auc" if gate_metric == "accuracy" else "accuracy"]
    return f"{sentence(interval['metric'])}: {_interval(interval)}." if interval else ""


def plain_verdict(verdict: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Return what the verdict means to those who decide, without statistics."""
    meaning = MEANINGS.get(verdict["code"], "It was not shown to beat that rule.")
    return (
        f"On {metrics['sessions']:,.0f} sessions that it had not seen, the model predicted "
        f"{percent(metrics['accuracy'])} of the candles correctly; the best simple rule, "
        f"“{words(verdict['best_baseline'])}”, {percent(metrics['best_baseline.accuracy'])}. "
        f"{meaning}"
    )


def counted(count: float, noun: str) -> str:
    """Return a number of things: ``1 session``, ``2,000 sessions``."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def listing(table: pd.DataFrame, row: str) -> str:
    """Return the rows of a table as one text, each formatted by `row`."""
    return "; ".join(row.format_map(values) for values in table.to_dict("records")) + "."


def features_text(features: Sequence[str], window: int, body: str) -> str:
    """Return what a model sees of a session, in words."""
    sentences = [each.sentence.format(window=window) for each in find_features(features).values()]
    how = "close / open - 1" if body == "return" else "close - open"
    return f"{'; '.join(sentences)}. A candle body is {how}"


def estimator_text(name: str) -> str:
    """Return an estimator in words: ``forest_50`` is a random forest of 50 trees.

    >>> estimator_text("forest_1000"), estimator_text("GaussianNB")
    ('random forest of 1,000 trees', 'GaussianNB')
    """
    kind, _, trees = name.partition("_")
    if kind == "forest" and trees.isdigit():
        return f"random forest of {counted(int(trees), 'tree')}"
    return ESTIMATORS.get(name, name)


def importance_text(importance: Sequence[Mapping[str, Any]]) -> str:
    """Return which features were shown to help a model, and how many would be so by chance."""
    if "log_loss_increase.low" not in importance[0]:
        return "There are too few sessions for intervals."
    helping = [row["feature"] for row in importance if row["log_loss_increase.low"] > 0]
    features = counted(len(importance), "feature")
    if not helping:
        return f"None of the {features} has an interval above zero: none was shown to help."
    by_chance = len(importance) * (1 - CONFIDENCE) / 2
    return (
        f"Of {features}, {len(helping)} {'has' if len(helping) == 1 else 'have'} an interval above "
        f"zero: {listed(helping)}. If none helped, chance alone would give about {by_chance:.1f}."
    )


def _interval(interval: Mapping[str, Any]) -> str:
    value, low, high = (f"{interval[key]:+.4f}" for key in ("value", "low", "high"))
    return f"{value} ({interval['confidence']:.0%} interval by date {low} to {high})"
