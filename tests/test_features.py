"""Features: every kind of leak, planted at once, is refused by name; honest ones pass."""

import json
import re
import runpy
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from candlecast.errors import FeatureError, LeakageError, ParameterError
from candlecast.features import computing
from candlecast.features.audit import audit_leakage
from candlecast.features.computing import (
    FEATURES,
    by_session,
    feature,
    feature_columns,
    feature_of_sessions,
    find_features,
)
from candlecast.features.definitions import lag_columns
from candlecast.features.windows import known_before, make_windows
from conftest import ROOT, SMALL

HONEST = ["lags", "volatility", "range", "volume_change", "weekday"]
WINDOW = 3


@pytest.fixture
def _own_features(monkeypatch):
    """Features that a test registers are its own."""
    before = dict(FEATURES)
    yield
    FEATURES.clear()
    FEATURES.update(before)


pytestmark = pytest.mark.usefixtures("_own_features")


def sessions(count: int = 70) -> pd.DataFrame:
    """Prices of three tickers; the second has no open on its tenth session."""
    random = np.random.default_rng(1)
    days = pd.bdate_range("2020-01-01", periods=count).date
    frames = []
    for ticker in "ABC":
        opened = 100 * np.exp(random.normal(0, 0.02, count).cumsum())
        close = opened * np.exp(random.normal(0, 0.02, count))
        frames.append(
            pd.DataFrame(
                {
                    **{"ticker": ticker, "session": days, "open": opened, "close": close},
                    "high": np.maximum(opened, close) * 1.01,
                    "low": np.minimum(opened, close) * 0.99,
                    "volume": random.integers(1000, 2000, count).astype(float),
                    "adj_close": close * 0.9,
                }
            )
        )
    frames[1].loc[9, "open"] = np.nan
    return pd.concat(frames)


@pytest.fixture(scope="module")
def prices(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(sessions()).cache()


def audit(prices: DataFrame, names: list[str], shift: int = 0) -> dict:
    """Make windows, shift their labels, split them and audit them."""
    windows = make_windows(prices, WINDOW, "return", names)
    windows = windows.withColumn("up", F.lag("up", shift).over(by_session())).dropna().cache()
    train = windows.where("session < '2020-03-01'")
    test = windows.where("session >= '2020-03-10'")
    return audit_leakage(prices, train, test, WINDOW, "return", names, purge=3)


def plant_leaks() -> tuple[list[str], list[str]]:
    """Register features that know too much, and features that fill; return their names."""

    @feature
    def own_body() -> Column:
        """Own body."""
        return F.col("body")

    @feature
    def next_open() -> Column:
        """The next open."""
        return F.lead("open").over(by_session()) / F.lag("close").over(by_session())

    @feature
    def overnight_gap() -> Column:
        """Own open after the close before: not known before the open."""
        return F.col("open") / F.lag("close").over(by_session()) - 1

    @feature
    def centred_mean() -> Column:
        """A mean of the sessions around."""
        return F.mean("body").over(by_session().rowsBetween(-2, 2))

    @feature
    def scaled() -> Column:
        """The body before, by the standard deviation of the whole history."""
        whole = F.stddev("body").over(Window.partitionBy("ticker"))
        return F.lag("body").over(by_session()) / whole

    @feature
    def shifted_label() -> Column:
        """The direction of the session, which is that of the one before by a wrong shift."""
        return F.lag(F.col("close") > F.col("open"), 0).over(by_session()).cast("int")

    @feature
    def other_tickers() -> Column:
        """The mean body of the other tickers in the same session."""
        date = Window.partitionBy("session")
        own = F.coalesce("body", F.lit(0.0))
        return (F.sum("body").over(date) - own) / (F.count("body").over(date) - 1)

    @feature
    def filled_to_its_own() -> Column:
        """The last close known, by the row itself."""
        closes = by_session().rowsBetween(Window.unboundedPreceding, 0)
        return F.last("close", ignorenulls=True).over(closes)

    @feature
    def filled() -> Column:
        """The last body before that is not missing."""
        before = by_session().rowsBetween(Window.unboundedPreceding, -1)
        return F.last("body", ignorenulls=True).over(before)

    @feature_of_sessions
    def wrong_date(sessions: pd.DataFrame) -> pd.Series:
        """Bodies joined by the date of the day after."""
        shifted = sessions.assign(session=sessions["session"] - pd.offsets.BDay(1))
        return sessions.merge(shifted, on="session", how="left")["body_y"]

    @feature_of_sessions
    def ranked(sessions: pd.DataFrame) -> pd.Series:
        """The rank of the volume before within the whole history."""
        return sessions["volume"].shift().rank(pct=True)

    leaks = [own_body, next_open, overnight_gap, centred_mean, scaled, shifted_label]
    leaks += [other_tickers, filled_to_its_own, wrong_date, ranked]
    return [leak.__name__ for leak in leaks], [filled.__name__]


def test_every_leak_is_refused_by_name_and_honest_features_are_not(prices):
    leaks, fills = plant_leaks()
    with pytest.raises(LeakageError) as error:
        audit(prices, [*HONEST, *leaks, *fills], shift=-1)
    label, *features = error.value.broken
    assert "windows have a label of another session" in label
    found = {}
    for line in features:
        name, _, what = line.removeprefix("feature ").partition(": ")
        found[name] = what
    assert list(found) == [*leaks, *fills]
    assert all("knows its own session or a later one" in found[name] for name in leaks)
    assert "fills a session without prices" in found["filled"]
    assert "11 of 11 sampled rows" in found["own_body"]
    assert "nan is what can be known" in found["own_body"]


def test_a_leak_is_refused_in_a_feature_that_claims_to_look_at_few_sessions(prices):
    def own(window: int) -> list[Column]:
        """Own body."""
        return [F.col("body")]

    def next_one(window: int) -> list[Column]:
        """The body of the next session."""
        return [F.lead("body").over(by_session())]

    def older(window: int) -> list[Column]:
        """The body of six sessions before, which is more than it claims."""
        return [F.lag("body", 6).over(by_session())]

    def filled_few(window: int) -> list[Column]:
        """The last body of five that is not missing."""
        five = by_session().rowsBetween(-5, -1)
        return [F.last("body", ignorenulls=True).over(five)]

    def third(window: int) -> list[Column]:
        """The body of three sessions before."""
        return [F.lag("body", 3).over(by_session())]

    for each in (own, next_one, older, filled_few, third):
        computing.register(each, expressions=each, reach=lambda window: 5)
    with pytest.raises(LeakageError) as error:
        audit(prices, ["lags", "third", "own", "next_one", "older", "filled_few"])
    own_fault, next_fault, older_fault, filled_fault = error.value.broken
    assert own_fault.startswith("feature own: it knows its own session")
    assert next_fault.startswith("feature next_one: it knows its own session")
    assert older_fault.startswith("feature older: ")
    assert filled_fault.startswith("feature filled_few: it fills a session without prices")


def test_honest_features_pass_with_their_evidence(prices):
    @feature_of_sessions
    def drawdown(sessions: pd.DataFrame) -> pd.Series:
        """The close before, compared with the highest of the ten before."""
        closes = sessions["close"].shift()
        return closes / closes.rolling(10).max() - 1

    @feature
    def market() -> Column:
        """The mean body of all tickers in the session before."""
        before = F.lag("body").over(by_session())
        return F.mean(before).over(Window.partitionBy("session"))

    names = [*HONEST, "drawdown", "market"]
    evidence = audit(prices, names)
    assert evidence["features"] == feature_columns(names, WINDOW)
    assert evidence["features"][3:] == [*HONEST[1:], "drawdown", "market"]
    assert evidence["rows_recomputed"] == 11  # of B there is no window on the first date
    assert len(evidence["sessions_sampled"]) == 4
    assert evidence["rows_with_wrong_lags"] == evidence["rows_with_wrong_label"] == 0


def test_features_written_out(spark):
    frame = sessions(25).query("ticker == 'A'").reset_index(drop=True)
    known = known_before(spark.createDataFrame(frame), WINDOW, "return", HONEST)
    rows = known.orderBy("session").toPandas()
    bodies = frame["close"] / frame["open"] - 1
    expected = {
        "volatility": bodies.rolling(20).std().shift(),
        "range": (frame["high"] / frame["low"] - 1).shift(),
        "volume_change": frame["volume"].pct_change().shift(),
        "weekday": pd.to_datetime(frame["session"]).dt.weekday,
    }
    for name, values in expected.items():
        assert rows[name].tolist() == pytest.approx(values.astype("float32").tolist(), nan_ok=True)
    assert rows["volatility"].notna().sum() == 5
    assert {known.schema[name].dataType.simpleString() for name in expected} == {"float"}


def test_a_session_without_open_is_known_by_its_date_alone(prices):
    """Its volume, high and low are there, and no feature sees them."""
    rows = known_before(prices.where("ticker = 'B'"), WINDOW, "return", HONEST)
    frame = rows.orderBy("session").toPandas()
    assert frame["range"].isna().to_numpy().nonzero()[0].tolist() == [0, 10]
    assert frame["volume_change"].isna().to_numpy().nonzero()[0].tolist() == [0, 1, 10, 11]
    assert frame["weekday"].notna().all()


def test_an_infinite_value_is_missing(spark):
    frame = sessions(6).query("ticker == 'A'").assign(volume=[1.0, 0.0, 2.0, 3.0, 4.0, 5.0])

    @feature_of_sessions
    def inverse(sessions: pd.DataFrame) -> pd.Series:
        """One by the volume before."""
        return 1 / sessions["volume"].shift()

    names = ["volume_change", "inverse"]
    rows = known_before(spark.createDataFrame(frame), WINDOW, "return", names)
    found = rows.orderBy("session").toPandas()
    assert found["volume_change"].isna().tolist() == [True, True, False, True, False, False]
    assert found["inverse"].isna().tolist() == [True, False, True, False, False, False]


@pytest.mark.parametrize("kind", ["column", "sessions"])
def test_adj_close_is_refused_by_the_features_name(prices, kind):
    if kind == "column":

        @feature
        def dividend() -> Column:
            """The adjustment for dividends."""
            return F.lag(F.col("adj_close") / F.col("close")).over(by_session())
    else:

        @feature_of_sessions
        def dividend(sessions: pd.DataFrame) -> pd.Series:
            """The adjustment for dividends."""
            return (sessions["adj_close"] / sessions["close"]).shift()

    with pytest.raises(FeatureError, match="later dividends") as error:
        make_windows(prices, WINDOW, "return", ["lags", "dividend"])
    assert error.value.name == "dividend"
    assert "adj_close" in error.value.cause


def test_a_function_that_returns_too_few_values_is_refused(prices):
    @feature_of_sessions
    def short(sessions: pd.DataFrame) -> pd.Series:
        """Without the rows that have no value."""
        return sessions["body"].shift().dropna()

    with pytest.raises(FeatureError, match="a value for each") as error:
        make_windows(prices, WINDOW, "return", ["short"])
    assert error.value.name == "short"


def test_columns_that_no_feature_made_are_refused(prices):
    windows = make_windows(prices, WINDOW, "return").withColumn("tomorrow", F.col("body"))
    for names in (["lags"], ["lags", "weekday"]):
        with pytest.raises(LeakageError, match="tomorrow"):
            audit_leakage(prices, windows, windows, WINDOW, "return", names, 3)


def test_an_unknown_name_has_a_near_match():
    with pytest.raises(FeatureError, match="did you mean volatility"):
        find_features(["lags", "volatilty"])
    with pytest.raises(FeatureError, match="lags, volatility, range, volume_change, weekday"):
        find_features(["xyz"])


def test_an_unknown_feature_is_refused_before_anything_runs(run, tmp_path):
    with pytest.raises(ParameterError, match="did you mean volatility") as error:
        run(features="lags volatilty")
    assert list(error.value.faults) == ["features"]
    assert not (tmp_path / "data").exists()


def test_names_of_columns_and_functions_without_a_docstring_are_refused():
    def body() -> Column:
        """The body."""
        return F.col("open")

    def silent() -> Column:
        return F.col("open")

    for function in (body, silent):
        with pytest.raises(FeatureError) as error:
            computing.feature(function)
        assert error.value.name == function.__name__
        assert function.__name__ not in FEATURES


@pytest.mark.slow
def test_the_feature_of_the_documentation_is_what_it_says(project, run, tmp_path):
    """Its diff, applied to a copy of the project as it stands, changes all that follows."""
    text = (ROOT / "docs/extend.md").read_text()
    [diff] = re.findall(r"^```diff\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    subprocess.run(["git", "apply", "-"], cwd=project, input=diff, text=True, check=True)
    runpy.run_path(project / "src/candlecast/features/definitions.py")
    small = {**SMALL, "tickers": ["IBM"], "estimators": ["forest_5"], "folds": 2}
    run(conf_source=project / "conf", **small)
    [info] = (tmp_path / "data/mlflow/artifacts").rglob("MLmodel")
    signature = json.loads(yaml.safe_load(info.read_text())["signature"]["inputs"])
    names = [column["name"] for column in signature]
    assert names == [*lag_columns(14), "momentum"]
    audited = json.loads((tmp_path / "data/training/leakage_audit.json").read_text())
    assert audited["features"] == names
    for page in ("report.html", "model_card.md"):
        text = (tmp_path / "data/reporting" / page).read_text()
        assert "the mean of the candle bodies of the 5 sessions before" in text
