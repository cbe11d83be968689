"""The environment of Yahoo's prices: the real command, and all pipelines in this process."""

import json
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from candlecast.errors import IngestError
from conftest import SMALL, Run
from yahoo_server import CRYPTO, YahooServer, prices, redirected, walk


def test_the_original_s_question_runs_through_all_pipelines(
    run: Run, tmp_path: Path, spark: SparkSession
) -> None:
    rows = walk(date(2021, 12, 1), date(2023, 1, 31), weekends=True)
    coin = prices(rows, zone=CRYPTO, opens="00:00", kind="CRYPTOCURRENCY")
    with YahooServer() as server, redirected(server.url, pace=0):
        server.script("BTC-USD", coin)
        run(
            env="yahoo",
            tickers=["BTC-USD"],
            start="2022-01-01",
            end="2022-12-31",
            body="delta",
            estimators=SMALL["estimators"],
            evaluation=SMALL["evaluation"],
        )
    assert server.requests == {"BTC-USD": 1}
    table = spark.read.format("delta").load(str(tmp_path / "data/tables/prices")).toPandas()
    assert len(table) == 365
    assert f"{table['session'].min():%Y-%m-%d}" == "2022-01-01"
    assert f"{table['session'].max():%Y-%m-%d}" == "2022-12-31"
    table = spark.read.format("delta").load(str(tmp_path / "data/tables/test")).toPandas()
    assert table["session"].nunique() == 71  # a fifth of 365 minus a window of 14
    expected = {row[0]: row[4] - row[1] for row in rows}
    newest = table.loc[table["session"].idxmax()]
    assert newest["body"] == expected["2022-12-31"]
    assert newest["lag_01"] == pd.Series([expected["2022-12-30"]], dtype="float32")[0]
    metrics = json.loads((tmp_path / "data/reporting/metrics.json").read_text())
    assert metrics["rows"] == 71
    report = (tmp_path / "data/reporting/report.html").read_text()
    assert "2022-01-01 to 2022-12-31" in report  # the requested range


def test_fault_08_an_impossible_price_ends_the_run_and_changes_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = walk(date(2019, 1, 1), date(2024, 12, 31))
    wrong = [*rows[:700], (rows[700][0], -1.0, *rows[700][2:]), *rows[701:]]
    with YahooServer() as server, redirected(server.url, pace=0):
        server.script("AAPL", prices(rows))
        server.script("IBM", prices(wrong))
        with pytest.raises(IngestError, match=r"IBM: 1 of 1305.*prices are positive"):
            run(env="yahoo", tickers=["AAPL", "IBM"], start="2020-01-01", end="2024-12-31")
    assert server.requests == {"AAPL": 1, "IBM": 1}
    assert not (tmp_path / "data/tables").exists()
    [aapl] = [line for line in capsys.readouterr().err.splitlines() if "  AAPL  " in line]
    assert aapl.split()[3:5] == ["1305", "sessions,"]
