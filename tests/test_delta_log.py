"""A table's folder is read without Spark as Spark reads it; what only Spark can read is left."""

import datetime as dt
import time

import pandas as pd
import pytest

from candlecast.frames import as_pandas, to_pandas
from candlecast.io.delta import DeltaDataset
from candlecast.io.delta_log import Log, read_version, remove_old_files

SCHEMA = "ticker STRING, session DATE, made_at TIMESTAMP, late BOOLEAN, up TINYINT, body FLOAT"


def rows(ticker: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ticker": [ticker, ticker],
            "session": [dt.date(2020, 1, 2), dt.date(2020, 1, 3)],
            "made_at": pd.to_datetime(["2020-01-01 12:00:00.123456", None], utc=True),
            "late": [True, None],
            "up": [1, None],
            "body": [0.5, None],
        }
    )


@pytest.fixture(scope="module")
def table(spark, tmp_path_factory):
    """Three versions: A, then B beside it, then A replaced by other rows."""
    folder = tmp_path_factory.mktemp("tables") / "scores"
    dataset = DeltaDataset(table=str(folder), schema=SCHEMA, replace_by="ticker")
    for frame in (rows("A"), rows("B"), rows("A").head(1)):
        dataset.save(frame)
    return folder


def test_each_version_is_what_spark_reads(spark, table):
    for version, count in enumerate((2, 4, 3)):
        found = as_pandas(read_version(table, version))
        expected = to_pandas(
            spark.read.option("versionAsOf", version).format("delta").load(str(table))
        )
        assert len(found) == count
        by_row = [
            each.sort_values(["ticker", "session"], ignore_index=True) for each in (found, expected)
        ]
        pd.testing.assert_frame_equal(*by_row)


def test_a_damaged_or_missing_file_is_left_to_spark(table):
    [first, *_] = sorted(Log(table).find(1).files)
    content = first.read_bytes()
    try:
        first.write_bytes(content[:-8] + bytes(8))
        assert read_version(table, 1) is None
        first.unlink()
        assert read_version(table, 1) is None
    finally:
        first.write_bytes(content)
    assert read_version(table, 1).num_rows == 4


def test_a_table_with_deletion_vectors_is_left_to_spark(spark, tmp_path):
    folder = tmp_path / "vectors"
    options = {"delta.enableDeletionVectors": "true", "delta.checkpointInterval": "1"}
    for _ in range(2):
        spark.range(3).write.format("delta").mode("append").options(**options).save(str(folder))
    assert read_version(folder, 0) is None
    (folder / f"_delta_log/{0:020d}.json").unlink()
    assert len(Log(folder).find(1).files) > 1  # from the checkpoint
    assert read_version(folder, 1) is None
    assert remove_old_files(folder, time.time() + 1, set()) == 0
