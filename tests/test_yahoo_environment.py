"""The environment of Yahoo's prices: the real command, and all pipelines in this process."""

import json
import math
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession

from conftest import SMALL, Run, kedro
from yahoo_server import CRYPTO, YahooServer, prices, redirected, walk


def coins(first: date, last: date) -> list[tuple[str, float, float, float, float, int]]:
    """Made-up prices of every day."""
    days = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    levels = [40 + 9 * math.sin(n / 40) + math.sin(n * n) for n in range(len(days) + 1)]
    return [
        (day, a, max(a, b) + 0.5, min(a, b) - 0.5, b, 1000)
        for day, a, b in zip(days, levels, levels[1:], strict=False)
    ]


def test_the_original_s_question_runs_through_all_pipelines(
    run: Run, tmp_path: Path, spark: SparkSession
) -> None:
    rows = coins(date(2021, 12, 1), date(2023, 1, 31))
    coin = prices(rows, zone=CRYPTO, opens="00:00", kind="CRYPTOCURRENCY")
    with YahooServer() as server, redirected(server.url, pace=0):
        server.script("BTC-USD", coin)
        run(
            env="yahoo",
            tickers=["BTC-USD"],
            start="2022-01-01",
            end="2022-12-31",
            feature="delta",
            candidate_trees=SMALL["candidate_trees"],
        )
    assert server.requests == {"BTC-USD": 1}
    table = spark.read.format("delta").load(str(tmp_path / "data/tables/prices")).toPandas()
    assert len(table) == 365
    assert f"{table['session'].min():%Y-%m-%d}" == "2022-01-01"
    assert f"{table['session'].max():%Y-%m-%d}" == "2022-12-31"
    table = spark.read.format("delta").load(str(tmp_path / "data/tables/test")).toPandas()
    assert table["session"].nunique() == 71  # a fifth of 365 less a window of 14
    expected = {row[0]: row[4] - row[1] for row in rows}
    newest = table.loc[table["session"].idxmax()]
    assert newest["body"] == expected["2022-12-31"]
    assert newest["lag_01"] == pd.Series([expected["2022-12-30"]], dtype="float32")[0]
    metrics = json.loads((tmp_path / "data/reporting/metrics.json").read_text())
    assert metrics["rows"] == 71
    report = (tmp_path / "data/reporting/report.html").read_text()
    assert "2022-01-01 to 2022-12-31" in report  # what was asked for


def test_fault_08_the_command_ends_with_one_line_and_changes_nothing(
    project: Path, tmp_path: Path
) -> None:
    rows = walk(date(2019, 1, 1), date(2024, 12, 31))
    rows[700] = (rows[700][0], -1.0, *rows[700][2:])
    with YahooServer() as server:
        server.script("AAPL", prices(walk(date(2019, 1, 1), date(2024, 12, 31))))
        server.script("IBM", prices(rows))
        environment = server.environment(tmp_path / "hook", pace=0)
        done = kedro(
            project,
            *("run", "--env", "yahoo", "--params"),
            "tickers=AAPL IBM,start=2020-01-01,end=2024-12-31",
            env=environment,
        )
    assert done.returncode != 0
    assert server.requests == {"AAPL": 1, "IBM": 1}
    lines = done.stderr.splitlines()
    errors = [line for line in lines if " ERROR " in line]
    assert len(errors) == 1
    assert "The answers for 1 of 2 tickers are refused; nothing of this run is stored." in errors[0]
    assert "IBM: 1 of 1305 rows of prices break the rule 'prices are positive'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (project / "data/tables").exists()
    assert any(
        line.endswith(
            "AAPL         1305 sessions, 2020-01-01 to 2024-12-31, 0 absent; "
            "asked for 2020-01-01 to 2024-12-31"
        )
        for line in lines
    )
