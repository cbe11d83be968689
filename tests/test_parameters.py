"""Parameters are refused before anything runs: what was asked, what came, what was meant."""

import datetime as dt
from typing import Any

import pytest

from candlecast.parameters import ParameterError, check_parameters
from conftest import loader


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    """The parameters of conf/base."""
    return dict(loader("base")["parameters"])


def faults(given: dict[str, Any]) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        check_parameters(given)
    first, *lines = str(caught.value).splitlines()
    assert first == "The parameters are not usable:"
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def test_committed_parameters_are_good_and_come_back_equal(committed):
    assert check_parameters(committed) == committed


# --- Row 2: dates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["2014-12-31", "2015-01-01"])
def test_fault_02_reversed_or_equal_dates(committed, end):
    assert faults({**committed, "start": "2015-01-01", "end": end}) == [
        f"end: must be later than start; start is '2015-01-01', end is '{end}'"
    ]


@pytest.mark.parametrize(
    "date", ["2015-02-30", "01/02/2015", "2015-1-2", "20150102", 20150102, 2015, True]
)
def test_fault_02_unparsable_dates(committed, date):
    assert faults({**committed, "start": date, "end": "2016-01-01"}) == [
        f"start: must be a date written YYYY-MM-DD; start is {date!r}, end is '2016-01-01'"
    ]
    assert faults({**committed, "start": "2010-01-01", "end": date}) == [
        f"end: must be a date written YYYY-MM-DD; start is '2010-01-01', end is {date!r}"
    ]


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_what_a_job_leaves_empty_is_not_given(committed, blank):
    names = ["git_commit", "approver", "override_reason", "catalog", "schema", "volume"]
    checked = check_parameters({**committed, **dict.fromkeys(names, blank)})
    assert [checked[name] for name in names] == [None] * 6
    checked = check_parameters({**committed, "candidate": "", "start": "", "end": ""})
    assert [checked[name] for name in ("candidate", "start", "end")] == [None] * 3


def test_fault_02_both_dates_unparsable(committed):
    assert faults({**committed, "start": "soon", "end": "later"}) == [
        "start: must be a date written YYYY-MM-DD; start is 'soon', end is 'later'",
        "end: must be a date written YYYY-MM-DD; start is 'soon', end is 'later'",
    ]


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
    assert faults({**committed, "start": future, "end": None}) == [
        f"start: lies in the future, today is {today} (UTC); start is '{future}', end is None"
    ]


def test_fault_03_end_in_the_future_is_left_to_the_source(committed):
    assert check_parameters({**committed, "end": "2999-12-31"})["end"] == "2999-12-31"


# --- Row 28: the configuration --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("windw", "; did you mean window?"),
        ("ticker", "; did you mean tickers?"),
        ("min_session", "; did you mean gate.min_sessions?"),
        ("repetitions", "; did you mean evaluation.repetitions?"),
        ("zzz", ""),
    ],
)
def test_fault_28_unknown_key(committed, key, near):
    assert faults({**committed, key: 14}) == [f"{key}: unknown parameter{near}"]


def test_fault_28_unknown_key_of_a_group(committed):
    gate = {**committed["gate"], "treshold": 0.1}
    assert faults({**committed, "gate": gate}) == [
        "gate.treshold: unknown parameter; did you mean gate.threshold?"
    ]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("window", "14", "must be a valid integer; it is '14'"),
        ("window", 14.5, "must be a valid integer; it is 14.5"),
        ("window", True, "must be a valid integer; it is True"),
        ("window", 0, "must be greater than or equal to 1; it is 0"),
        ("purge", None, "must be a valid integer; it is None"),
        ("test_fraction", "20%", "must be a valid number; it is '20%'"),
        ("test_fraction", 1.0, "must be less than 1; it is 1.0"),
        ("feature", "retrun", "must be 'return' or 'delta'; it is 'retrun'"),
        ("allow_missing_tickers", "yes", "must be a valid boolean; it is 'yes'"),
        ("candidate_trees", [100, 50], "must be ascending, each size once; it is [100, 50]"),
        ("candidate_trees", [50, 50], "must be ascending, each size once; it is [50, 50]"),
        ("candidate", True, "must be a valid string; it is True"),
        ("tickers", ["IBM", "FB", "IBM"], "names IBM more than once; it is ['IBM', 'FB', 'IBM']"),
        ("tickers", 7203, "must be a valid list; it is 7203"),
    ],
)
def test_fault_28_wrong_type_or_value(committed, key, value, words):
    assert faults({**committed, key: value}) == [f"{key}: {words}"]


def test_fault_28_wrong_type_in_a_list_and_in_a_group(committed):
    evaluation = {**committed["evaluation"], "repetitions": "many"}
    given = {**committed, "candidate_trees": [50, "100"], "evaluation": evaluation}
    assert faults(given) == [
        "candidate_trees.1: must be a valid integer; it is '100'",
        "evaluation.repetitions: must be a valid integer; it is 'many'",
    ]


def test_fault_28_missing_key(committed):
    assert faults({key: value for key, value in committed.items() if key != "seed"}) == [
        "seed: is missing"
    ]


@pytest.mark.parametrize(
    "tickers",
    ["AAPL IBM", "AAPL;IBM", " AAPL  IBM ", ["AAPL;IBM"], ["AAPL IBM"], ["AAPL", "IBM"]],
)
def test_tickers_as_one_text(committed, tickers):
    # What --params tickers=[AAPL;IBM] and --params tickers="AAPL IBM" bring.
    assert check_parameters({**committed, "tickers": tickers})["tickers"] == ["AAPL", "IBM"]


@pytest.mark.parametrize("tickers", ["", " ", []])
def test_no_tickers(committed, tickers):
    assert faults({**committed, "tickers": tickers}) == [
        f"tickers: must name at least one ticker; it is {tickers!r}"
    ]


def test_candidate_of_digits_is_text(committed):
    assert check_parameters({**committed, "candidate": 123})["candidate"] == "123"


@pytest.mark.parametrize("key", ["candidate", "git_commit"])
def test_what_reads_as_a_fraction_is_refused_as_text(committed, key):
    assert faults({**committed, key: 1.1}) == [
        f"{key}: was read as a number, not as typed: put it between single quotes; it is 1.1"
    ]


def test_all_faults_in_one_message(committed):
    given = {
        **committed,
        "windw": 14,
        "window": "14",
        "start": "2015-01-01",
        "end": "2014-01-01",
        "tickers": "IBM IBM",
        "test_fraction": 2,
    }
    assert faults(given) == [
        "tickers: names IBM more than once; it is 'IBM IBM'",
        "end: must be later than start; start is '2015-01-01', end is '2014-01-01'",
        "window: must be a valid integer; it is '14'",
        "test_fraction: must be less than 1; it is 2",
        "windw: unknown parameter; did you mean window?",
    ]


@pytest.mark.parametrize(("given", "read"), [(100, [100]), ("50 100", [50, 100]), ([5], [5])])
def test_forest_sizes_from_a_command_line(committed, given, read):
    assert check_parameters({**committed, "candidate_trees": given})["candidate_trees"] == read
