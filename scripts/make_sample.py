"""Write data/sample/prices.csv from the package bokeh_sampledata, and print what is in it.

Run `python scripts/make_sample.py`. It needs bokeh_sampledata 2026.1 and no network. Prices are
copied as text, so no digit changes. It prints the tables of data/sample/README.md.
"""

import csv
import gzip
import hashlib
import io
import sys
from pathlib import Path

import exchange_calendars
import pandas as pd
from bokeh_sampledata import package_path

# The SHA-256 of the uncompressed stocks.csv.gz, as the package's licenses/datasets.json states it.
# Releases before 2026.1 hold Yahoo's prices, which this project never commits.
SOURCE_SHA256 = "e73fe05d106b7da1abe8f947264c514afd02cef5c9db4864b9437c84d6bd6069"
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample" / "prices.csv"
SOURCE_COLUMNS = ["Ticker", "Date", "Open", "High", "Low", "Close", "Adj Close", "Volume"]
COLUMNS = ["ticker", "session", "open", "high", "low", "close", "adj_close", "volume"]
UNKNOWN = ["dividends", "stock_splits"]
SATURDAY = 5
SMALLEST_STEP = 1.05


def read_source(path: Path) -> str:
    """Return the package's price table as text.

    Args:
        path: The package's stocks.csv.gz.

    Raises:
        SystemExit: The file is missing or isn't the one this sample was made from.
    """
    found = gzip.decompress(path.read_bytes()) if path.exists() else b""
    digest = hashlib.sha256(found).hexdigest()
    if digest != SOURCE_SHA256:
        actual = f"SHA-256 {digest}" if found else "no such file"
        sys.exit(
            f"make_sample: expected {path} with SHA-256 {SOURCE_SHA256}, got {actual}: "
            "install bokeh-sampledata 2026.1"
        )
    return found.decode()


def to_sample(source: str) -> str:
    """Return the sample as CSV text: one row per ticker and session, sorted by both.

    Values are the source's own text. `dividends` and `stock_splits` stay empty: the source doesn't
    contain them, and unknown is not zero.
    """
    rows = sorted(
        [row[name] for name in SOURCE_COLUMNS] for row in csv.DictReader(io.StringIO(source))
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS + UNKNOWN)
    writer.writerows([*row, *("" for _ in UNKNOWN)] for row in rows)
    return out.getvalue()


def sessions_by_ticker(prices: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ticker: its sessions against the NYSE calendar, and its body signs."""
    calendar = exchange_calendars.get_calendar("XNYS", start="2000-01-01", end="2013-12-31")
    rows = []
    for ticker, group in prices.groupby("ticker"):
        held = pd.DatetimeIndex(group["session"])
        expected = calendar.sessions_in_range(held.min(), held.max())
        rows.append(
            {
                "ticker": ticker,
                "sessions": len(held),
                "first": f"{held.min():%Y-%m-%d}",
                "last": f"{held.max():%Y-%m-%d}",
                "missing": len(expected.difference(held)),
                "not on calendar": len(held.difference(expected)),
                "up (close > open)": f"{(group['close'] > group['open']).mean():.4f}",
                "close = open": int((group["close"] == group["open"]).sum()),
                "open = previous close": int((group["open"] == group["close"].shift()).sum()),
            }
        )
    return pd.DataFrame(rows)


def rows_by_check(prices: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rule for prices, with the number of rows that break it."""
    values = prices[["open", "high", "low", "close", "adj_close", "volume"]]
    body = prices[["open", "close"]]
    broken = {
        "missing price or volume": values.isna().any(axis=1),
        "price or volume not positive": (values <= 0).any(axis=1),
        "high < low": prices["high"] < prices["low"],
        "open or close above high": body.gt(prices["high"], axis=0).any(axis=1),
        "open or close below low": body.lt(prices["low"], axis=0).any(axis=1),
        "duplicate ticker and session": prices.duplicated(["ticker", "session"], keep=False),
        "Saturday or Sunday": prices["session"].dt.dayofweek >= SATURDAY,
    }
    return pd.DataFrame({"check": broken.keys(), "rows": [int(b.sum()) for b in broken.values()]})


def adjustment_steps(prices: pd.DataFrame) -> pd.DataFrame:
    """Return one row per session on which adj_close / close grew by over 5 %, mostly splits."""
    ratio = prices["adj_close"] / prices["close"]
    step = ratio / ratio.groupby(prices["ticker"]).shift()
    found = prices.assign(step=step.round(4))[step > SMALLEST_STEP]
    session = found["session"].dt.strftime("%Y-%m-%d")
    return found.assign(session=session)[["ticker", "session", "step"]]


def markdown(table: pd.DataFrame) -> str:
    """Return the table as Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Write the sample and print its tables."""
    text = to_sample(read_source(package_path("stocks.csv.gz")))
    SAMPLE.parent.mkdir(parents=True, exist_ok=True)
    SAMPLE.write_bytes(text.encode())
    prices = pd.read_csv(io.StringIO(text), parse_dates=["session"])
    tables = [sessions_by_ticker(prices), rows_by_check(prices), adjustment_steps(prices)]
    sys.stdout.write(f"{SAMPLE}: {len(prices)} rows\n\n")
    sys.stdout.write("\n".join(markdown(table) for table in tables))


if __name__ == "__main__":
    main()
