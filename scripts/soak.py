"""Run a data root daily for months, against a loopback Yahoo: `python scripts/soak.py [cycles]`.

Each cycle is one session of the exchange: a forecast after its close. Every tenth retrains and
registers. Two days are missed, one run is killed, one share is split, one close is revised
afterwards. At the end the record must be right to the row, time and bytes of the data flat, and
the tables' logs must hold nothing but what the newest and the registered versions are read from.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import ROOT, SMALL, run_session, start_spark  # first: it silences third parties

import pandas as pd  # isort: skip
from exchange_calendars import get_calendar  # isort: skip
from pyspark.sql import SparkSession  # isort: skip

from yahoo_server import YahooServer, prices, redirected, walk  # isort: skip

TICKERS = ["AAPL", "IBM"]
SESSIONS = [
    f"{day:%Y-%m-%d}" for day in get_calendar("XNYS").sessions_in_range("2021-01-04", "2023-12-29")
]
HISTORY = 400
"""Sessions before the first cycle."""
BYTES, SECONDS, TIMED = 0.05, 1.3, 10
"""What is flat: so small a change of the data of one champion; medians of so many forecasts, those
of the last ones not longer by this factor than after the first ones."""
PARTS = {
    "data": "tables/*/*",
    "logs": "tables/*/_delta_log/*",
    "store": "mlflow/**/*",
    "spark": "spark/**/*",
}


@dataclass
class Soak:
    """A root that is run daily, and what it must hold.

    Attributes:
        root: the data root.
        every: cycles between two retrainings.
        checkpoints: commits between two checkpoints of a table's log.
        made: the forecasts that must be stored: ticker, session, version.
        measured: per cycle its session, the seconds of its forecast, the champion, bytes by
            `PARTS`, and the number of `spare_commits`.
    """

    root: Path
    every: int
    checkpoints: int = 10
    made: list[tuple[str, str, int]] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    version: int = 0
    last: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make up the prices of both shares, as they are before the split."""
        made_up = walk(date(2021, 1, 4), date(2026, 1, 1))[: len(SESSIONS)]
        rows = [(day, *row[1:]) for day, row in zip(SESSIONS, made_up, strict=True)]
        self.rows = {
            ticker: pd.DataFrame(
                rows, columns=["session", "open", "high", "low", "close", "volume"]
            )
            for ticker in TICKERS
        }

    def run(self, day: int, **given: Any) -> None:
        """Run a command after the close of a session."""
        run_session(self.root, env="yahoo", **self.parameters(day), **given)

    def parameters(self, day: int) -> dict[str, Any]:
        """Return the parameters of a run after the close of a session."""
        return {
            **SMALL,
            "start": SESSIONS[0],
            "end": SESSIONS[day],
            "now": f"{SESSIONS[day]}T22:30:00+00:00",
            "keep_versions_days": 0,
        }

    def serve(self, server: YahooServer, day: int) -> None:
        """Let Yahoo know the sessions up to one."""
        for ticker, rows in self.rows.items():
            known = rows[: day + 1].itertuples(index=False, name=None)
            server.script(ticker, prices([*known], splits=self.changes.get(ticker)))

    def retrain(self, day: int) -> None:
        """Train a candidate, and make it champion."""
        name = f"day-{day}"
        self.run(day, candidate=name)
        approval = {"approver": "Ada", "override_reason": "soak"}
        self.run(day, pipeline_names=["registration"], candidate=name, **approval)
        self.version += 1

    def forecast(self, day: int) -> None:
        """Forecast the next session."""
        since = time.monotonic()
        self.run(day, pipeline_names=["forecast"])
        seconds = round(time.monotonic() - since, 1)
        self.made += [(ticker, SESSIONS[day + 1], self.version) for ticker in TICKERS]
        self.last = day
        bytes_ = {
            part: sum(file.stat().st_size for file in self.root.glob(found) if file.is_file())
            for part, found in PARTS.items()
        }
        self.measured.append(
            {
                "session": SESSIONS[day],
                "seconds": seconds,
                "model_version": self.version,
                **bytes_,
                "spare_commits": len(self.spare_commits()),
            }
        )

    def spare_commits(self) -> list[Path]:
        """Return the commits that neither the newest nor a registered version is read from."""
        with closing(sqlite3.connect(self.root / "mlflow/mlflow.db")) as store:
            tags = store.execute("SELECT key, value FROM model_version_tags").fetchall()
        spare = []
        for table in (self.root / "tables").iterdir():
            commits = {int(file.stem): file for file in table.glob("_delta_log/*.json")}
            kept = {int(value) for key, value in tags if key == f"version_{table.name}"}
            ranges = (
                range(last - last % self.checkpoints, last + 1) for last in {*kept, max(commits)}
            )
            needed = {version for each in ranges for version in each}
            spare += [file for version, file in commits.items() if version not in needed]
        return spare

    def check_flat(self) -> None:
        """Fail if the root grows, or its forecasts take longer, from cycle to cycle."""
        measured = pd.DataFrame(self.measured)
        assert not measured["spare_commits"].any(), "the logs hold more than they need"
        for version, bytes_ in measured.groupby("model_version")["data"]:
            # From the second forecast on, as the first one removes what the former one needed.
            first, last = bytes_.iloc[[min(1, len(bytes_) - 1), -1]]
            assert abs(last / first - 1) < BYTES, f"data of champion v{version}: {first} to {last}"
        seconds = measured["seconds"]
        if len(seconds) >= 3 * TIMED:
            first, last = seconds[TIMED : 2 * TIMED].median(), seconds[-TIMED:].median()
            assert last < SECONDS * first, f"a forecast took {first} s, now {last} s"

    def killed_forecast(self, server: YahooServer, day: int) -> None:
        """Kill the command of a forecast once it has written prices."""
        given = {"data_root": str(self.root), **self.parameters(day)}
        flat = {
            **given,
            "tickers": " ".join(TICKERS),
            "estimators": " ".join(SMALL["estimators"]),
            "evaluation.repetitions": 1000,
        }
        del flat["evaluation"]
        sets = [f"{name}={value}" for name, value in flat.items() if ":" not in str(value)]
        command = [
            "kedro",
            "run",
            "--env",
            "yahoo",
            "--pipelines",
            "forecast",
            "--params",
            ",".join(sets),
        ]
        with subprocess.Popen(
            [Path(sys.executable).with_name("kedro"), *command[1:]],
            cwd=ROOT,
            env=server.environment(self.root.parent / "hook"),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as running:
            assert running.stderr
            seen = any("merge_prices" in line for line in running.stderr)
            os.killpg(running.pid, signal.SIGKILL)
        assert seen, "the run ended before it wrote prices"

    def split(self, ticker: str, day: int) -> None:
        """Split a share two to one before a session: Yahoo corrects all earlier prices."""
        rows = self.rows[ticker]
        columns = ["open", "high", "low", "close"]
        rows[columns] /= 2
        self.changes[ticker] = {SESSIONS[day]: (2, 1)}

    def revise(self, ticker: str, day: int) -> None:
        """Revise the close of a session so that its candle turns."""
        rows = self.rows[ticker]
        opened, closed = rows.loc[day, ["open", "close"]]
        rows.loc[day, "close"] = opened - (closed - opened) / 2
        rows.loc[day, ["high", "low"]] = [max(opened, closed) + 1, min(opened, closed) - 1]

    def expected(self) -> pd.DataFrame:
        """Return the forecasts that must be stored, with the outcomes known by the last cycle."""
        found = []
        for ticker, session, version in self.made:
            row = self.rows[ticker].set_index("session").loc[session]
            known = session <= SESSIONS[self.last]
            up = int(row["close"] > row["open"]) if known else None
            found.append((ticker, session, version, up))
        return _sorted(pd.DataFrame(found, columns=["ticker", "session", "model_version", "up"]))

    def stored(self, spark: SparkSession) -> pd.DataFrame:
        """Return the same of the forecasts that are stored."""
        table = spark.read.format("delta").load(f"{self.root}/tables/forecasts")
        columns = "ticker", "cast(session AS string)", "model_version", "cast(up AS int)"
        return _sorted(table.selectExpr(*columns).toPandas())


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.sort_values(["ticker", "session", "model_version"], ignore_index=True)
    return frame.astype({"model_version": "int64", "up": "Int64"})


def soak(root: Path, cycles: int, every: int, checkpoints: int = 10) -> Soak:
    """Run so many cycles; see this file's description.

    Args:
        root: an empty folder to be.
        cycles: how many sessions.
        every: cycles between two retrainings.
        checkpoints: commits between two checkpoints of a table's log, as Spark is configured.
    """
    daily = Soak(root, every, checkpoints)
    missed = {cycles // 4, cycles // 4 + 1}
    split, killed, revised = cycles // 3 + 1, cycles // 2, cycles * 2 // 3
    with YahooServer() as server, redirected(server.url, pace=0):
        for cycle in range(cycles):
            day = HISTORY + cycle
            if cycle in missed:
                continue
            if cycle == split:
                daily.split("AAPL", day)
            if cycle == revised:
                daily.revise("IBM", day - 1)
            daily.serve(server, day)
            if cycle % every == 0:
                daily.retrain(day)
            if cycle == killed:
                daily.killed_forecast(server, day)
            daily.forecast(day)
    return daily


def main() -> None:
    """Run it, print a line per cycle, and fail if the record is not right or the root grows."""
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        spark = start_spark(folder / "scratch")
        daily = soak(folder / "data", cycles, 10)
        sys.stdout.write(pd.DataFrame(daily.measured).to_string() + "\n")
        pd.testing.assert_frame_equal(daily.stored(spark), daily.expected())
        sys.stdout.write(f"{len(daily.made)} forecasts are right to the row\n")
        daily.check_flat()
        spark.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
