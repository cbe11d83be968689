"""Parameters: refused before anything runs, typed in nodes, recorded once per candidate."""

import datetime as dt
from typing import Any

import pytest
from kedro.pipeline import Pipeline, node
from mlflow.tracking import MlflowClient

from candlecast import pipeline_registry
from candlecast.errors import IncompatibleRunError, ParameterError
from candlecast.parameters import Gate, check_parameters
from candlecast.runtime.mlflow_run import recorded
from conftest import loader, run_session


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    """The parameters of conf/base."""
    return {**loader("base")["parameters"], "now": "2024-01-04T22:15:00+00:00"}


def faults(given: dict[str, Any]) -> dict[str, str]:
    """What is wrong with each parameter that is refused, by its name."""
    with pytest.raises(ParameterError) as caught:
        check_parameters(given)
    assert all(name in str(caught.value) for name in caught.value.faults)
    return caught.value.faults


def refused(given: dict[str, Any], key: str, *words: object) -> None:
    """Assert that this parameter alone is refused, and that the message holds the words."""
    found = faults(given)
    assert list(found) == [key]
    assert [word for word in words if str(word) not in found[key]] == []


def test_committed_parameters_are_good_and_come_back_equal(committed):
    now = "2026-11-24T12:00:00+00:00"
    assert check_parameters(committed | {"now": now}) == committed | {"now": now}


# --- Dates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["2014-12-31", "2015-01-01"])
def test_fault_02_reversed_or_equal_dates(committed, end):
    refused({**committed, "start": "2015-01-01", "end": end}, "end", "'2015-01-01'", repr(end))


@pytest.mark.parametrize(
    "date", ["2015-02-30", "01/02/2015", "2015-1-2", "20150102", 20150102, 2015, True]
)
def test_fault_02_unparsable_dates(committed, date):
    good = {**committed, "start": "2010-01-01", "end": "2016-01-01"}
    refused({**good, "start": date}, "start", "YYYY-MM-DD", repr(date), "'2016-01-01'")
    refused({**good, "end": date}, "end", "YYYY-MM-DD", repr(date), "'2010-01-01'")


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_an_empty_text_is_no_value(committed, blank):
    names = ["git_commit", "approver", "override_reason", "catalog", "schema", "volume"]
    checked = check_parameters({**committed, **dict.fromkeys(names, blank)})
    assert [checked[name] for name in names] == [None] * 6
    checked = check_parameters({**committed, "candidate": "", "start": "", "end": ""})
    assert [checked[name] for name in ("candidate", "start", "end")] == [None] * 3


def test_fault_02_both_dates_unparsable(committed):
    found = faults({**committed, "start": "soon", "end": "later"})
    assert list(found) == ["start", "end"]


@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), ("2015-01-01", None), (None, "2015-01-01"), ("2015-01-01", "2015-01-02")],
)
def test_dates_in_order_are_good(committed, start, end):
    checked = check_parameters({**committed, "start": start, "end": end})
    assert (checked["start"], checked["end"]) == (start, end)


def test_fault_03_start_in_the_future(committed):
    today = dt.datetime.now(dt.UTC).date()
    future = (today + dt.timedelta(days=3)).isoformat()
    refused({**committed, "start": future, "end": None}, "start", f"today is {today}", repr(future))


def test_fault_03_end_in_the_future_is_left_to_the_source(committed):
    assert check_parameters({**committed, "end": "2999-12-31"})["end"] == "2999-12-31"


# --- The time -------------------------------------------------------------------------------------


def test_now_is_a_utc_time_to_the_second(committed):
    assert check_parameters(committed | {"now": ""})["now"] is None
    checked = check_parameters(committed | {"now": "2026-11-24T12:00:00Z"})
    assert checked["now"] == "2026-11-24T12:00:00+00:00"


@pytest.mark.parametrize(
    "now",
    ["noon", "2026-11-24T12:00:00", "2026-11-24T12:00:00+01:00", "2026-11-24T12:00:00.5Z", 5],
)
def test_now_without_or_in_another_time_zone_is_refused(committed, now):
    refused(committed | {"now": now}, "now", "UTC", now)


@pytest.mark.parametrize("since", [None, "2024-01-04", "champion"])
def test_since_is_a_date_or_the_champion(committed, since):
    assert check_parameters(committed | {"since": since})["since"] == since


def test_since_of_another_kind_is_refused(committed):
    refused(committed | {"since": "yesterday"}, "since", "YYYY-MM-DD", "yesterday")


# --- Names and types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("windw", "window"),
        ("ticker", "tickers"),
        ("min_session", "gate.min_sessions"),
        ("repetitions", "evaluation.repetitions"),
        ("zzz", None),
    ],
)
def test_fault_28_unknown_key(committed, key, near):
    found = faults({**committed, key: 14})
    assert list(found) == [key]
    assert (near or "") in found[key]
    assert found[key].endswith("?") == bool(near)


def test_fault_28_unknown_key_of_a_group(committed):
    gate = {**committed["gate"], "treshold": 0.1}
    refused({**committed, "gate": gate}, "gate.treshold", "gate.threshold")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("window", "two", "integer"),
        ("window", 14.5, "integer"),
        ("window", True, "integer"),
        ("window", 0, "1"),
        ("purge", None, "integer"),
        ("test_fraction", "20%", "number"),
        ("test_fraction", 1.0, "less than 1"),
        ("body", "retrun", "'delta'"),
        ("allow_missing_tickers", "yes", "boolean"),
        ("estimators", "forest_50 logistc", "did you mean logistic?"),
        ("estimators", "forest_0", "forest_100"),
        ("estimators", "boosting forest_5 boosting", "two have the name boosting"),
        ("estimators", "sklearn.naive_bayes.Gausian", "no attribute 'Gausian'"),
        ("estimators", "nowhere.Forest", "No module named 'nowhere'"),
        ("estimators", "sklearn.svm.SVC", "SVC does not predict probabilities"),
        ("estimators", "sklearn.linear_model.Ridge", "Ridge is not a scikit-learn classifier"),
        ("estimators", "sklearn.ensemble.VotingClassifier", "'estimators'"),
        ("estimators", "os.abort", "os.abort is not"),  # it is not called
        ("estimators", "reports.Model", "the types reports.Model"),
        ("estimators", [{"class": "boosting", "learning_rat": 1}], "learning_rate"),
        ("estimators", [{"class": "boosting", "learning_rate": -1}], "boosting can't be fitted"),
        ("estimators", [{"class": "boosting", "name": "logistic"}], "the name logistic"),
        ("estimators", [{"class": "boosting", "name": "base_rate"}], "the name base_rate"),
        ("estimators", [{"name": "boosting"}], "no class"),
        ("estimators", [], "at least 1"),
        ("estimators", 50, "list"),
        ("candidate", True, "string"),
        ("tickers", ["IBM", "FB", "IBM"], "IBM more than once"),
        ("tickers", 7203, "list"),
    ],
)
def test_fault_28_wrong_type_or_value(committed, key, value, words):
    refused({**committed, key: value}, key, words, repr(value))


def test_fault_28_wrong_type_in_a_list_and_in_a_group(committed):
    evaluation = {**committed["evaluation"], "repetitions": "many"}
    given = {**committed, "tickers": ["A", 7], "evaluation": evaluation}
    assert list(faults(given)) == ["tickers.1", "evaluation.repetitions"]


def test_fault_28_missing_key(committed):
    given = {key: value for key, value in committed.items() if key != "seed"}
    refused(given, "seed", "missing")


@pytest.mark.parametrize(
    "tickers",
    ["AAPL IBM", "AAPL;IBM", " AAPL  IBM ", ["AAPL;IBM"], ["AAPL IBM"], ["AAPL", "IBM"]],
)
def test_tickers_as_one_text(committed, tickers):
    # As --params tickers=[AAPL;IBM] and --params tickers="AAPL IBM" give them.
    assert check_parameters({**committed, "tickers": tickers})["tickers"] == ["AAPL", "IBM"]


@pytest.mark.parametrize("tickers", ["", " ", [], None])
def test_no_tickers_are_all_of_a_table_and_refused_of_yahoo(committed, tickers):
    given = {**committed, "tickers": tickers}
    assert check_parameters(given)["tickers"] == []
    refused({**given, "prices": "yahoo"}, "tickers", "at least one", repr(tickers))


def test_prices_of_ones_own_must_be_named():
    committed = loader("table")["parameters"]
    refused(committed, "prices", "--params prices=")
    assert check_parameters({**committed, "prices": "my.csv"})["tickers"] == []


def test_columns_have_our_names(committed):
    given = {"close": "Last", "session": "Trade Date"}
    assert check_parameters({**committed, "columns": given})["columns"] == given
    [(key, fault)] = faults({**committed, "columns": {"closed": "Last"}}).items()
    assert key.startswith("columns.closed")
    assert "'close'" in fault


def test_a_calendar_is_one_that_is_known(committed):
    assert check_parameters({**committed, "calendar": "24/5"})["calendar"] == "24/5"
    refused({**committed, "calendar": "xnyss"}, "calendar", "XNYS")


def test_candidate_of_digits_is_text(committed):
    assert check_parameters({**committed, "candidate": 123})["candidate"] == "123"


@pytest.mark.parametrize("key", ["candidate", "git_commit"])
def test_a_text_that_was_read_as_a_fraction_is_refused(committed, key):
    refused({**committed, key: 1.1}, key, "number", "quotes", 1.1)


def test_all_faults_in_one_message(committed):
    given = {
        **committed,
        "windw": 14,
        "window": "14x",
        "start": "2015-01-01",
        "end": "2014-01-01",
        "tickers": "IBM IBM",
        "test_fraction": 2,
    }
    assert list(faults(given)) == ["tickers", "end", "window", "test_fraction", "windw"]


@pytest.mark.parametrize(
    ("key", "text", "read"),
    [
        ("window", "10", 10),
        ("test_fraction", "0.25", 0.25),
        ("allow_missing_tickers", "true", True),
        ("candidate", "0123", "0123"),
        ("candidate", "1.10", "1.10"),
        ("tickers", "AAPL,BTC-USD", ["AAPL", "BTC-USD"]),
        ("estimators", "forest_5 logistic", ["forest_5", "logistic"]),
        ("override_reason", " Worth it, says Ada: x=1 {too} 'strict'", None),
    ],
)
def test_a_text_is_read_as_the_parameter_s_type(committed, key, text, read):
    expected = text.strip() if read is None else read
    assert check_parameters(committed | {key: text})[key] == expected


def test_a_group_s_values_as_texts(committed):
    gate = committed["gate"] | {"threshold": "0.1", "champion_margin": "null"}
    checked = check_parameters(committed | {"gate": gate})["gate"]
    assert (checked["threshold"], checked["champion_margin"]) == (0.1, None)


@pytest.mark.parametrize("text", ["ten", "1.5", "", "010", "[1]"])
def test_a_text_that_is_not_a_whole_number(committed, text):
    refused(committed | {"folds": text}, "folds", text)


# --- In nodes and in MLflow -----------------------------------------------------------------------


@pytest.fixture
def probe(monkeypatch, tmp_path):
    """Run a pipeline of one node that returns its parameters; its MLflow run comes with them."""

    def look(gate: Gate, tickers: list[str]) -> tuple[Gate, list[str]]:
        return gate, tickers

    names = {"gate": "params:gate", "tickers": "params:tickers"}
    pipeline = Pipeline([node(look, names, "seen", name="look")])
    monkeypatch.setattr(pipeline_registry, "register_pipelines", lambda: {"__default__": pipeline})

    def go(**given):
        seen = run_session(tmp_path / "data", **given)["seen"].load()
        return *seen, tracked()

    def tracked():
        [run] = MlflowClient(f"sqlite:///{tmp_path}/data/mlflow/mlflow.db").search_runs(["1"])
        return run

    go.tracked = tracked
    return go


def test_a_node_gets_a_group_as_its_type_and_mlflow_its_values(probe, committed):
    gate, _, run = probe(gate={"threshold": "0.1"})  # as --set gate.threshold=0.1 gives it
    assert gate == Gate(**committed["gate"] | {"threshold": 0.1})
    recorded = {f"gate.{name}": str(value) for name, value in gate.model_dump().items()}
    assert run.data.params == recorded | {"tickers": "AAPL FB GOOG IBM MSFT"}


def test_thousands_of_tickers_have_a_short_record_of_their_own():
    many = [f"T{number:04d}" for number in range(5000)]
    texts = {recorded({"tickers": tickers})["tickers"] for tickers in (many, [*many[:-1], "LAST"])}
    assert len(texts) == 2
    assert all(len(text) < 100 and "5000" in text for text in texts)
    assert recorded({"tickers": many[:3]}) == {"tickers": "T0000 T0001 T0002"}


def test_a_candidate_keeps_its_parameters_also_those_with_a_short_record(probe):
    many = [f"T{number:04d}" for number in range(1200)]
    _, tickers, run = probe(candidate="many", tickers=many)
    assert tickers == many
    assert run.data.params["tickers"] == recorded({"tickers": many})["tickers"] != str(many)
    with pytest.raises(IncompatibleRunError) as caught:
        probe(candidate="many", tickers=[*many[:-1], "LAST"])
    assert list(caught.value.differences) == ["tickers"]
    assert probe.tracked().info.status == "FINISHED"  # as it was
    probe(candidate="many", tickers=many)
