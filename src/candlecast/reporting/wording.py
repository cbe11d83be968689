"""Sentences for what `candlecast.evaluation.gate` returns, and texts that several pages share."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from candlecast.evaluation.bootstrap import CONFIDENCE
from candlecast.features.computing import find_features
from candlecast.reporting.html import listed, number, percent, words

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
    "above_threshold": "{interval}: the lower end is above {threshold}.",
    "not_above_threshold": "{interval}: the lower end is not above {threshold}.",
    "other_champion": "The champion is now version {champion_version}, and this candidate was not "
    "compared with it: train a new candidate.",
}
"""The sentence for each code of a gate's decision."""

MEASURED = {
    "accuracy_minus_best_baseline": "The gain over the best simple rule",
    "roc_auc_minus_half": "ROC AUC minus 0.5",
    "accuracy_minus_champion": "Accuracy minus that of the champion",
    "roc_auc_minus_champion": "ROC AUC minus that of the champion",
}
"""What a gate measures, in words. Accuracies are in percentage points."""

PASSED = {
    "skill": "Good enough to use",
    "ranking": "Good enough to rank sessions, not to predict their direction",
    "none": "The gate is passed without a clear gain",
}
"""The headline for the code of a verdict, if the gate is passed."""

FAILED = {"too_good": "Too good to be true", "too_few_sessions": "Too early to tell"}
"""The headline for the code of a gate's reason, if it is not passed."""

ESTIMATORS = {"logistic": "logistic regression", "boosting": "gradient boosting"}
"""The words for an estimator's name; others stand for themselves."""

RULES = {
    "majority": "what was more frequent in training",
    "previous_day": "the same direction as the day before",
}
"""What a simple rule predicts, if its name does not say so."""

SIMPLER = {
    "base_rate": "The share of ups in training, predicted every time,",
    "logistic": "Logistic regression on the same features, a simpler model,",
}
"""The beginning of the sentence on a baseline that is at least as good as the model."""


def gate_reasons(reasons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each reason of a gate's decision."""
    sentences = []
    for reason in reasons:
        name = MEASURED.get(reason.get("metric", ""), "")
        if "champion_version" in reason:
            name += f" (version {reason['champion_version']})"
        texts = {"name": name, **(_interval(name, reason) if "low" in reason else {})}
        sentences.append(REASONS[reason["code"]].format(**{**reason, **texts}))
    return sentences


def headline(verdict: Mapping[str, Any], gate_decision: Mapping[str, Any]) -> str:
    """Return whether a candidate is good enough, in a few words."""
    if gate_decision["passed"]:
        return PASSED[verdict["code"]]
    reasons = gate_decision["reasons"]
    for code, text in FAILED.items():
        if any(reason["code"] == code for reason in reasons):
            return text
    if all("champion_version" in reason for reason in reasons):
        return "Not good enough to replace the champion"
    return "Not good enough to use"


def summary_text(verdict: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Return what a candidate's test has shown, without statistics."""
    text = (
        f"Right {comparison_text(verdict, metrics)} Tested on {metrics['sessions']:,.0f} sessions "
        "(trading days) that it had not seen."
    )
    if verdict["code"] == "ranking":
        text += (
            " It ranks sessions better than chance, but not well enough to rely on the direction."
        )
    return text


def comparison_text(verdict: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Return how often the direction was right, in comparison with the best simple rule.

    ``51.8% of the time: no clear gain over a simple rule, “always up” (50.3%).``
    """
    lead, interval = metrics["accuracy_minus_best_baseline"], verdict["accuracy"]
    compared = "no clear gain over" if lead > 0 else "no better than"
    if interval and interval["low"] > 0:
        compared = "a clear gain over"
    elif interval and interval["high"] < 0:
        compared = "clearly worse than"
    return (
        f"{percent(metrics['accuracy'])} of the time: {compared} a simple rule, "
        f"“{rule_text(verdict['best_baseline'])}” ({percent(metrics['best_baseline.accuracy'])})."
    )


def rule_text(name: str) -> str:
    """Return what a simple rule predicts."""
    return RULES.get(name, words(name))


def simpler_text(metrics: Mapping[str, float]) -> str:
    """Return which simpler baselines are at least as good as the model; nothing if there is none.

    That is one whose log loss, by which estimators are chosen, is smaller in four digits.
    """
    sentences = []
    for name, beginning in SIMPLER.items():
        own, other = (f"{metrics.get(key, 0.0):.4f}" for key in ("log_loss", f"{name}.log_loss"))
        if f"{name}.log_loss" in metrics and other < own:
            sentences.append(
                f"{beginning} is at least as good: its log loss is {other}, that of the model {own}"
                " (lower is better)."
            )
    return " ".join(sentences)


def champion_text(metrics: Mapping[str, float]) -> str:
    """Return on what a candidate was compared with the champion; nothing if there is none."""
    if "champion.version" not in metrics:
        return ""
    champion = f"The champion, version {metrics['champion.version']:.0f},"
    sessions = metrics["champion.sessions"]
    if not sessions:
        return f"{champion} was trained on every session of the test set, so it cannot be compared."
    accuracy = metrics["champion.accuracy"] + metrics["accuracy_minus_champion"]
    return (
        f"{champion} was tested on the {sessions:,.0f} of {metrics['sessions']:,.0f} sessions that "
        f"are new to it; there this model was right {percent(accuracy)} of the time."
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


def _interval(name: str, reason: Mapping[str, Any]) -> dict[str, str]:
    """Return an interval and its threshold in words; accuracies in percentage points."""
    points = reason["metric"].startswith("accuracy")
    factor, digits = (100, 1) if points else (1, 4)
    value, low, high = (
        number(factor * reason[key], digits, signed=True) for key in ("value", "low", "high")
    )
    return {
        "threshold": number(factor * reason["threshold"], digits),
        "interval": f"{name} is {value}{' percentage points' if points else ''}, and plausibly "
        f"lies between {low} and {high} on other sessions like these "
        f"({reason['confidence']:.0%} interval)",
    }
