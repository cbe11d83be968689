"""Parameters are refused before anything runs: what was asked, what came, what was meant."""

import datetime as dt
from typing import Any

import pytest

from candlecast.parameters import ParameterError, check_parameters
from conftest import loader


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    """The parameters of conf/base."""
    return {**loader("base")["parameters"], "now": "2024-01-04T22:15:00+00:00"}


def faults(given: dict[str, Any]) -> dict[str, str]:
    """What is said of each parameter that is refused, by its name."""
    with pytest.raises(ParameterError) as caught:
        check_parameters(given)
    _, *lines = str(caught.value).splitlines()
    return dict(line.strip().split(": ", 1) for line in lines)


def said(given: dict[str, Any], key: str, *words: object) -> None:
    """Assert that this parameter alone is refused, and that the message holds the words."""
    found = faults(given)
    assert list(found) == [key]
    assert [word for word in words if str(word) not in found[key]] == []


def test_committed_parameters_are_good_and_come_back_equal(committed):
    assert check_parameters(committed) == committed


# --- Row 2: dates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["2014-12-31", "2015-01-01"])
def test_fault_02_reversed_or_equal_dates(committed, end):
    said({**committed, "start": "2015-01-01", "end": end}, "end", "'2015-01-01'", repr(end))


@pytest.mark.parametrize(
    "date", ["2015-02-30", "01/02/2015", "2015-1-2", "20150102", 20150102, 2015, True]
)
def test_fault_02_unparsable_dates(committed, date):
    good = {**committed, "start": "2010-01-01", "end": "2016-01-01"}
    said({**good, "start": date}, "start", "YYYY-MM-DD", repr(date), "'2016-01-01'")
    said({**good, "end": date}, "end", "YYYY-MM-DD", repr(date), "'2010-01-01'")


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_what_a_job_leaves_empty_is_not_given(committed, blank):
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
    dates = {"start": start, "end": end}
    assert check_parameters({**committed, **dates}) == {**committed, **dates}


# --- Row 3: the future ----------------------------------------------------------------------------


def test_fault_03_start_in_the_future(committed):
    today = dt.datetime.now(dt.UTC).date()
    future = (today + dt.timedelta(days=3)).isoformat()
    said({**committed, "start": future, "end": None}, "start", f"today is {today}", repr(future))


def test_fault_03_end_in_the_future_is_left_to_the_source(committed):
    assert check_parameters({**committed, "end": "2999-12-31"})["end"] == "2999-12-31"


# --- Row 28: the configuration --------------------------------------------------------------------


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
    assert found[key].endswith(f" {near}?" if near else "unknown parameter")


def test_fault_28_unknown_key_of_a_group(committed):
    gate = {**committed["gate"], "treshold": 0.1}
    said({**committed, "gate": gate}, "gate.treshold", "gate.threshold")


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
        ("forest_sizes", [100, 50], "ascending"),
        ("forest_sizes", [50, 50], "once"),
        ("candidate", True, "string"),
        ("tickers", ["IBM", "FB", "IBM"], "IBM more than once"),
        ("tickers", 7203, "list"),
    ],
)
def test_fault_28_wrong_type_or_value(committed, key, value, words):
    said({**committed, key: value}, key, words, repr(value))


def test_fault_28_wrong_type_in_a_list_and_in_a_group(committed):
    evaluation = {**committed["evaluation"], "repetitions": "many"}
    given = {**committed, "forest_sizes": [50, "100x"], "evaluation": evaluation}
    assert list(faults(given)) == ["forest_sizes.1", "evaluation.repetitions"]


def test_fault_28_missing_key(committed):
    given = {key: value for key, value in committed.items() if key != "seed"}
    said(given, "seed", "missing")


@pytest.mark.parametrize(
    "tickers",
    ["AAPL IBM", "AAPL;IBM", " AAPL  IBM ", ["AAPL;IBM"], ["AAPL IBM"], ["AAPL", "IBM"]],
)
def test_tickers_as_one_text(committed, tickers):
    # What --params tickers=[AAPL;IBM] and --params tickers="AAPL IBM" bring.
    assert check_parameters({**committed, "tickers": tickers})["tickers"] == ["AAPL", "IBM"]


@pytest.mark.parametrize("tickers", ["", " ", []])
def test_no_tickers(committed, tickers):
    said({**committed, "tickers": tickers}, "tickers", "at least one", repr(tickers))


def test_candidate_of_digits_is_text(committed):
    assert check_parameters({**committed, "candidate": 123})["candidate"] == "123"


@pytest.mark.parametrize("key", ["candidate", "git_commit"])
def test_what_reads_as_a_fraction_is_refused_as_text(committed, key):
    said({**committed, key: 1.1}, key, "number", "quotes", 1.1)


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


@pytest.mark.parametrize(("given", "read"), [(100, [100]), ("50 100", [50, 100]), ([5], [5])])
def test_forest_sizes_from_a_command_line(committed, given, read):
    assert check_parameters({**committed, "forest_sizes": given})["forest_sizes"] == read


@pytest.mark.parametrize(
    ("key", "text", "read"),
    [
        ("window", "10", 10),
        ("test_fraction", "0.25", 0.25),
        ("allow_missing_tickers", "true", True),
        ("candidate", "0123", "0123"),
        ("candidate", "1.10", "1.10"),
        ("tickers", "AAPL,BTC-USD", ["AAPL", "BTC-USD"]),
        ("forest_sizes", "5 10", [5, 10]),
        ("override_reason", " Worth it, says Ada: x=1 {too} 'strict'", None),
    ],
)
def test_what_comes_as_text_is_read_by_its_type(committed, key, text, read):
    expected = text.strip() if read is None else read
    assert check_parameters(committed | {key: text})[key] == expected


def test_a_group_s_values_as_texts(committed):
    gate = committed["gate"] | {"threshold": "0.1", "champion_margin": "null"}
    checked = check_parameters(committed | {"gate": gate})["gate"]
    assert (checked["threshold"], checked["champion_margin"]) == (0.1, None)


@pytest.mark.parametrize("text", ["ten", "1.5", "", "010", "[1]"])
def test_a_text_that_is_no_whole_number(committed, text):
    said(committed | {"folds": text}, "folds", text)
