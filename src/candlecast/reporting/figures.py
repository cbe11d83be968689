"""Figures of the pages, drawn by matplotlib, and as SVG whose colours follow the page's theme."""

import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, MODEL, OTHER = "#1b2127", "#5d6873", "#d5dade", "#1d5b8f", "#a05713"

THEME = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    MODEL: "var(--model)",
    OTHER: "var(--other)",
}
"""What stands for each colour in a page, so that the page's theme decides."""

STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "candlecast",  # the same figure, the same text
}

WIDTH = 4.6
"""Of every figure, in inches, so that a page scales all of them alike."""


LONGEST = 20
"""Rows of a figure, at most: the others are in its table."""


def _blank(height: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure; without pyplot, which would keep it and look for a display."""
    from matplotlib import rc_context  # here, as importing matplotlib is slow
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.add_subplot()


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Label the rows at the left, from top to bottom."""
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def draw_accuracy(
    table: pd.DataFrame, best: float, label: str = "accuracy on the test set"
) -> "Figure":
    """Draw accuracies as points, the model's with its interval.

    Args:
        table: one row per rule, the model first: ``name``, ``accuracy``, and ``low`` and ``high``
            (NaN where there is no interval).
        best: accuracy of the baseline that the gate compares with.
        label: of the axis.
    """
    figure, axes = _blank(0.5 + 0.28 * len(table))
    axes.axvline(best, color=OTHER, linewidth=0.8, linestyle="--")
    for place, row in enumerate(table.to_dict("records")):
        colour = OTHER if place else MODEL
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["accuracy"], place, "o", color=colour, markersize=6)
    _name_rows(axes, list(table["name"]))
    axes.set_xlabel(label)
    return figure


def draw_roc(curve: pd.DataFrame) -> "Figure":
    """Draw a ROC curve; an empty one becomes a note.

    Args:
        curve: one row per point: ``false_up`` (share of downs predicted up), ``true_up`` (of ups).
    """
    if curve.empty:
        figure, axes = _blank(1.2)
        axes.set_axis_off()
        words = "undefined: only one class occurred"
        axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
        return figure
    figure, axes = _blank(4.1)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
    axes.plot(curve["false_up"], curve["true_up"], color=MODEL, linewidth=1.8)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("share of the down sessions predicted up")
    axes.set_ylabel("share of the up sessions predicted up")
    axes.text(0.62, 0.55, "a coin toss", color=MUTED)
    return figure


def draw_calibration(table: pd.DataFrame) -> "Figure":
    """Draw predicted probabilities against what happened.

    Args:
        table: one row per bin, as `candlecast.evaluation.significance.calibration` returns it.
    """
    table = table.astype(float)
    figure, axes = _blank(4.1)
    ends = table[["probability", "share_up", "low", "high"]]
    span = (max(0.0, ends.min().min() - 0.01), min(1.0, ends.max().max() + 0.01))
    axes.plot(span, span, color=MUTED, linewidth=0.8, linestyle="--")
    axes.vlines(table["probability"], table["low"], table["high"], color=MUTED, linewidth=0.8)
    axes.plot(table["probability"], table["share_up"], "o", color=MODEL)
    axes.set(xlim=span, ylim=span, aspect="equal")
    axes.set_xlabel("predicted probability of up")
    axes.set_ylabel("share that closed up")
    return figure


def draw_drift(features: list[dict[str, Any]], limit: float, chance: float) -> "Figure":
    """Draw the population stability index of every feature, and what drift must exceed.

    Args:
        features: one row each: ``name``, ``psi``, ``drifted``.
        limit: the threshold of the parameters.
        chance: what chance stays below.
    """
    figure, axes = _blank(0.9 + 0.2 * len(features))
    axes.axvline(limit, color=OTHER, linewidth=0.8, linestyle="--")
    axes.axvline(chance, color=MUTED, linewidth=0.8, linestyle=":")
    for place, each in enumerate(features):
        colour = OTHER if each["drifted"] else MODEL
        axes.plot([0, each["psi"]], [place, place], color=colour, linewidth=4)
    _name_rows(axes, [each["name"] for each in features])
    axes.set_xlim(0, 1.08 * max(limit, chance, *(each["psi"] for each in features)))
    axes.set_xlabel("population stability index")
    return figure


def draw_validation(estimators: pd.DataFrame) -> "Figure":
    """Draw the mean log loss of every estimator with one standard error, and the highest to choose.

    Args:
        estimators: one row per estimator: ``estimator``, ``log_loss``, ``log_loss_se``, ``chosen``.
    """
    figure, axes = _blank(0.8 + 0.28 * len(estimators))
    places = range(len(estimators))
    loss, error = estimators["log_loss"], estimators["log_loss_se"]
    limit = loss.min() + error[loss.argmin()]
    axes.axvline(limit, color=OTHER, linewidth=0.8, linestyle="--")
    axes.hlines(places, loss - error, loss + error, color=MODEL, linewidth=1.6)
    axes.scatter(loss, places, [100 if chosen else 25 for chosen in estimators["chosen"]], MODEL)
    _name_rows(axes, list(estimators["estimator"]))
    axes.set_ylim(len(estimators) - 0.5, -0.5)
    axes.set_xlabel("log loss (large dot: chosen)")
    return figure


def draw_importance(table: pd.DataFrame) -> "Figure":
    """Draw what the log loss rises by when a feature is shuffled, for the `LONGEST` first features.

    Args:
        table: one row per feature: ``feature``, ``log_loss_increase``, and its ``.low`` and
            ``.high`` if there is an interval.
    """
    rows = table.head(LONGEST).to_dict("records")
    figure, axes = _blank(0.9 + 0.2 * len(rows))
    axes.axvline(0, color=OTHER, linewidth=0.8, linestyle="--")
    for place, row in enumerate(rows):
        value = row["log_loss_increase"]
        ends = [row.get(f"log_loss_increase.{end}", value) for end in ("low", "high")]
        axes.plot(ends, [place, place], color=MODEL, linewidth=1.6)
        axes.plot(value, place, "o", color=MODEL, markersize=5)
    _name_rows(axes, [row["feature"] for row in rows])
    axes.set_xlabel("increase of the log loss")
    return figure


def draw_course(course: pd.DataFrame) -> "Figure":
    """Draw the lead over the best baseline through time, in the band of no difference.

    Args:
        course: as `candlecast.evaluation.track_record.follow_lead` returns it.
    """
    figure, axes = _blank(2.8)
    days, band = pd.to_datetime(course["session"]), course["band"]
    axes.fill_between(days, -band, band, color=LINE, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.plot(days, course["lead"], color=MODEL, linewidth=1.6)
    axes.set_ylabel("right predictions ahead")
    _name_dates(axes)
    return figure


def draw_equity(curve: pd.DataFrame) -> "Figure":
    """Draw the growth of 1.

    Args:
        curve: one row per session: ``session``, ``strategy`` (net of costs) and ``holding``.
    """
    figure, axes = _blank(2.8)
    axes.axhline(1, color=LINE, linewidth=0.8)
    axes.plot(curve["session"], curve["holding"], color=OTHER, linewidth=1.3, label="holding")
    axes.plot(
        curve["session"], curve["strategy"], color=MODEL, linewidth=1.3, label="strategy, net"
    )
    axes.set_ylabel("growth of 1")
    axes.legend(frameon=False, labelcolor="linecolor")
    _name_dates(axes)
    return figure


def _name_dates(axes: "Axes") -> None:
    """Label an axis of dates in few words."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def svg(name: str, figure: "Figure", title: str, description: str) -> Markup:
    """Return a figure as SVG for a page, which sets its colours and its font.

    Args:
        name: the prefix of every id in it, so that a page can hold several figures.
        figure: as drawn here.
        title: for readers who can't see the figure.
        description: for the same readers: what it shows, in numbers.
    """
    from matplotlib import rc_context

    text = StringIO()
    with rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    box, inside = re.search(  # type: ignore[union-attr] # matplotlib always writes them
        r'<svg [^>]*viewBox="([^"]+)"[^>]*>(.*)</svg>', text.getvalue(), re.DOTALL
    ).groups()
    inside = re.sub(r"<(metadata|style)\b.*?</\1>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'\bid="', f'id="{name}-', inside)
    inside = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{name}-", inside)
    inside = re.sub(r"font-family: [^;]*;", "", inside)
    for colour, themed in THEME.items():
        inside = inside.replace(colour, themed)
    return Markup(
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="{box}">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{inside}</svg>'
    )
