"""The leakage audit of every run: the model knows nothing of what it predicts.

It derives again, in another way than the code that made the tables, what must be true of them.
"""

import datetime as dt
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from candlecast.errors import LeakageError, NotEnoughDataError
from candlecast.features.computing import (
    NOT_FEATURES,
    by_session,
    feature_columns,
    find_features,
)
from candlecast.features.definitions import lag_columns
from candlecast.features.windows import Body, candle_body, known_before
from candlecast.frames import join_dates, to_pandas

SAMPLED = (0.0, 0.33, 0.67, 1.0)
"""Where among the sessions of a ticker every feature is computed again."""

TOLERANCE = 1e-5
"""How far, relative to itself, a feature may differ: sums may be taken in another order."""


def audit_leakage(
    prices: DataFrame,
    train: DataFrame,
    test: DataFrame,
    window: int,
    body: Body,
    features: Sequence[str],
    purge: int,
) -> dict[str, int | str | list[str]]:
    """Audit the windows to train on and to test on against the prices that they were made of.

    Returns:
        The evidence: ``rows_in_both``, ``purged_sessions`` (each ticker that has rows in both sets
        has at least so many between them), ``last_training_session``, ``first_test_session`` (ISO
        dates), ``rows_with_wrong_label`` and, if they are a feature, ``rows_with_wrong_lags``, of
        ``rows_audited``; ``features`` (the columns, which a model's inputs must be) and
        ``rows_recomputed`` at ``sessions_sampled`` (ISO dates).

    Raises:
        NotEnoughDataError: one of the sets is empty.
        LeakageError: a ticker's session is in both sets, fewer than `purge` of its sessions are
            between them, a label is not that of its session, a column is not that of a feature, or
            a feature knows its own session or a later one, or fills a missing one.
    """
    columns = feature_columns(features, window)
    if wrong := set(columns) ^ {*train.columns, *test.columns}.difference(NOT_FEATURES):
        raise LeakageError([f"columns that features do not make, or lack: {sorted(wrong)}"])
    lags = lag_columns(window) if "lags" in features else []
    tickers = _check_rows(prices, train, test, lags, body, purge)
    trained = [row for row in tickers if row["last"]]
    tested = [row for row in tickers if row["first"]]
    if not trained or not tested:
        raise NotEnoughDataError(
            "The split leaves no windows to train on, or none to test on. Request a longer range, "
            "or lower window, purge or test_fraction."
        )
    last, first = max(row["last"] for row in trained), min(row["first"] for row in tested)
    in_both = [row for row in trained if row["first"]]
    close = [row for row in in_both if not row["purged"] or row["purged"] >= first]
    audited, wrong_labels, wrong_lags = (
        sum(row[count] for row in tickers) for count in ("audited", "wrong_labels", "wrong_lags")
    )
    rows_in_both = 0
    if any(row["first"] <= row["last"] for row in in_both):
        keys = ["ticker", "session"]
        rows_in_both = train.select(keys).intersect(test.select(keys)).count()
    dates = _sample_dates(tickers)
    again = _compute_again(prices, train.unionByName(test), dates, window, body, features)
    broken = []
    if rows_in_both:
        broken.append(f"{rows_in_both} rows are in both train and test")
    if last >= first:
        broken.append(f"training ends on {last}, the test begins on {first}")
    if close:
        gap = _fewest_between(prices, close, first)
        broken.append(f"a ticker has {gap} sessions between train and test, the purge is {purge}")
    if wrong_labels:
        broken.append(f"{wrong_labels} of {audited} windows have a label of another session")
    if wrong_lags:
        broken.append(
            f"{wrong_lags} of {audited} windows hold a body that is not from its own past"
        )
    for name, values in again.items():
        own = find_features([name])[name].columns(window)
        broken += [f"feature {name}: {fault}" for fault in _faults(values, own)]
    if broken:
        raise LeakageError(broken)
    evidence: dict[str, int | str | list[str]] = {
        "rows_in_both": rows_in_both,
        "purged_sessions": purge,
        "last_training_session": str(last),
        "first_test_session": str(first),
        "rows_audited": audited,
        "rows_with_wrong_label": wrong_labels,
    }
    if lags:
        evidence["rows_with_wrong_lags"] = wrong_lags
    return evidence | {
        "features": columns,
        "rows_recomputed": len(next(iter(again.values()))["stored"]),
        "sessions_sampled": [str(day) for day in dates],
    }


def _check_rows(
    prices: DataFrame, train: DataFrame, test: DataFrame, lags: list[str], body: Body, purge: int
) -> list[Row]:
    """Compare windows with prices. Return one row per ticker of train and test.

    The bodies before are collected as a list, not by the lag functions that made the windows. A
    missing body is not collected, so the list of a window that should be void is too short.

    Returns:
        ``ticker``; ``last`` (training session) and ``first`` (test session), null where there is
        none; ``purged``: the session that is `purge` sessions after the last training session, or
        null; ``audited`` rows, ``wrong_labels`` and ``wrong_lags`` among them; ``days``: sampled
        sessions, in days since 1970.
    """
    before = by_session().rowsBetween(-max(1, len(lags)), -1)
    candles = prices.select("ticker", "session", "open", "close", candle_body(body).alias("own"))
    gathered = candles.withColumns(
        {
            "past": F.collect_list(F.col("own").cast("float")).over(before),
            "purged": F.lead("session", purge).over(by_session()),
        }
    )
    read = ["ticker", "session", "up", "body", *lags]  # others may have names that are used here
    windows = train.select(*read, F.lit(1).alias("train")).unionByName(
        test.select(*read, F.lit(0).alias("train"))
    )
    label = (F.col("up") == (F.col("close") > F.col("open")).cast("int")) & (
        F.col("body") == F.col("own")
    )
    past = F.col("past") == F.array(*reversed(lags)) if lags else F.lit(True)
    trained, tested = (F.when(F.col("train") == is_train, F.col("session")) for is_train in (1, 0))
    joined = windows.join(gathered, ["ticker", "session"], "left").groupBy("ticker")
    by_ticker = joined.agg(
        F.max(trained).alias("last"),
        F.min(tested).alias("first"),
        F.max_by("purged", trained).alias("purged"),
        F.count(F.lit(1)).alias("audited"),
        F.count_if(~F.coalesce(label, F.lit(False))).alias("wrong_labels"),
        F.count_if(~F.coalesce(past, F.lit(False))).alias("wrong_lags"),
        F.percentile_approx(F.unix_date("session"), SAMPLED).alias("days"),
    )
    return by_ticker.collect()


def _fewest_between(prices: DataFrame, close: list[Row], first: dt.date) -> int:
    """Return the fewest sessions of a ticker between its ``last`` training session and the test."""
    ends = {row["ticker"]: row["last"] for row in close}
    between = (F.col("session") > F.col("last")) & (F.col("session") < F.lit(first))
    counts = join_dates(prices, "last", ends).groupBy("ticker")
    found = counts.agg(F.count_if(between).alias("n")).collect()
    return min((int(row["n"]) for row in found), default=0)


# --- Features, computed again ---------------------------------------------------------------------


def _sample_dates(tickers: list[Row]) -> list[dt.date]:
    """Return the first and the last session of all, and those between of the longest ticker."""
    longest = max(tickers, key=lambda row: row["audited"])
    days = {*longest["days"][1:-1]}
    days |= {min(row["days"][0] for row in tickers), max(row["days"][-1] for row in tickers)}
    return [dt.date(1970, 1, 1) + dt.timedelta(days=day) for day in sorted(days)]


def _compute_again(
    prices: DataFrame,
    windows: DataFrame,
    dates: list[dt.date],
    window: int,
    body: Body,
    features: Sequence[str],
) -> dict[str, dict[str, pd.DataFrame]]:
    """Compute the features of the sampled dates on histories that end before each of them.

    A session without an open is known by its date alone.

    Returns:
        By feature, one row per window of `dates` and one column per column of the feature:
        ``stored``; ``cut``, where its own session is known by date alone and later ones are not;
        and ``blank``, for one date, where the session before it is known by date alone as well.
    """
    early = dates[(len(dates) - 1) // 2]  # a short history is computed faster
    cases = [*(("cut", day) for day in dates), ("blank", early)]
    found = find_features(features)
    bounded = {name: each.reach(window) for name, each in found.items() if each.reach}
    sampled = windows.where(F.col("session").isin(dates))
    again: dict[str, dict[str, pd.DataFrame]] = {}
    for names in ([*bounded], [name for name in found if name not in bounded]):
        if not names:
            continue
        columns = ["ticker", "session", *feature_columns(names, window)]

        def known(history: DataFrame, names: list[str] = names) -> DataFrame:
            return known_before(history, window, body, names)

        if names[0] in bounded:
            parts = [_together(prices, cases, max(bounded.values()), known)]
        else:
            parts = _apart(prices, cases, known)
        stored = sampled.withColumn("_kind", F.lit("stored"))
        rows = [part.select("_kind", *columns) for part in (stored, *parts)]
        frame = to_pandas(reduce(DataFrame.union, rows)).set_index(["ticker", "session"])
        kinds = {kind: part.drop(columns="_kind") for kind, part in frame.groupby("_kind")}
        index, nothing = kinds["stored"].index, frame.head(0).drop(columns="_kind")
        by_kind = {
            kind: kinds["stored"] if kind == "stored" else kinds.get(kind, nothing).reindex(index)
            for kind in ("stored", "cut", "blank")
        }
        again |= dict.fromkeys(names, by_kind)
    return {name: again[name] for name in found}


Case = tuple[str, dt.date]
"""How a history is cut, and before which session."""


def _apart(
    prices: DataFrame, cases: list[Case], known: Callable[[DataFrame], DataFrame]
) -> list[DataFrame]:
    """Compute each case on a frame of its own: a feature may look at all that is in it."""
    session, opened = F.col("session"), F.col("open")
    followed = prices.withColumn("_following", F.lead("session").over(by_session()))
    parts = []
    for kind, day in cases:
        is_known = F.col("_following" if kind == "blank" else "session") < F.lit(day)
        history = followed.where(session <= day).withColumn("open", F.when(is_known, opened))
        again = known(history).where(session == day)
        parts.append(again.withColumn("_kind", F.lit(kind)))
    return parts


def _together(
    prices: DataFrame, cases: list[Case], reach: int, known: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    """Compute all cases on one frame: the end of each history is enough, as a ticker of its own."""
    session, ticker, case = F.col("session"), F.col("ticker"), F.col("_case")
    ahead = F.lead("session", reach + 1).over(by_session())
    followed = prices.withColumns(
        {"_following": F.lead("session").over(by_session()), "_ahead": ahead}
    )
    needed = [
        (session <= F.lit(day)) & (F.col("_ahead").isNull() | (F.col("_ahead") > F.lit(day)))
        for _, day in cases
    ]
    every = F.array(
        *(
            F.when(
                condition,
                F.struct(F.lit(n).alias("n"), F.lit(day).alias("day"), F.lit(kind).alias("kind")),
            )
            for n, ((kind, day), condition) in enumerate(zip(cases, needed, strict=True))
        )
    )
    ends = followed.where(reduce(operator.or_, needed)).withColumn(
        "_case", F.explode(F.array_compact(every))
    )
    newest = F.when(case["kind"] == "blank", F.col("_following")).otherwise(session)
    history = ends.withColumns(
        {
            "open": F.when(newest < case["day"], F.col("open")),
            "ticker": F.concat_ws("|", case["n"].cast("string"), ticker),
        }
    )
    number = F.substring_index(ticker, "|", 1).cast("int")
    kinds, days = (F.array(*map(F.lit, values)) for values in zip(*cases, strict=True))
    again = known(history).where(session == F.get(days, number))
    return again.withColumns(
        {
            "_kind": F.get(kinds, number),
            "ticker": F.expr("substring(ticker, instr(ticker, '|') + 1)"),
        }
    )


def _faults(again: dict[str, pd.DataFrame], columns: list[str]) -> Iterator[str]:
    """Yield what is wrong with the first column of a feature that is wrong, in words."""
    for column in columns:
        stored, cut, blank = (
            again[kind][column].to_numpy(float) for kind in ("stored", "cut", "blank")
        )
        smallest = TOLERANCE * float(np.median(np.abs(stored)))
        looks_ahead = ~np.isclose(cut, stored, TOLERANCE, smallest)
        fills = ~np.isclose(blank, stored, TOLERANCE, smallest) & ~np.isnan(blank)
        for wrong, found, what in (
            (looks_ahead, cut, "it knows its own session or a later one"),
            (fills, blank, "it fills a session without prices"),
        ):
            if wrong.any():
                at = int(wrong.argmax())
                ticker, day = again["stored"].index[at]
                yield (
                    f"{what}: column {column}, {wrong.sum()} of {len(wrong)} sampled rows; "
                    f"{ticker}, {day:%Y-%m-%d}: {stored[at]:.6g} is stored, "
                    f"{found[at]:.6g} is what can be known"
                )
                return
