"""Source → fetched → prices, quality → windows → train, test."""

from kedro.pipeline import Pipeline, node

from candlecast.features.audit import audit_leakage
from candlecast.pipelines.data_engineering.nodes import (
    compare_prices,
    fetch_prices,
    make_windows,
    merge_prices,
    select_prices,
    split_by_date,
    tabulate_quality,
)


def create_pipeline() -> Pipeline:
    """Fetch and check prices (tag ``ingest``), then window and split them (tag ``preprocess``).

    The tag ``prices`` names what the forecast pipeline shares.
    """
    ingest = [
        node(
            fetch_prices,
            {
                "source": "source",
                "tickers": "params:tickers",
                "start": "params:start",
                "end": "params:end",
                "max_missing_share": "params:max_missing_share",
                "allow_missing_tickers": "params:allow_missing_tickers",
                "window": "params:window",
                "purge": "params:purge",
                "folds": "params:folds",
                "test_fraction": "params:test_fraction",
                "min_training_sessions": "params:min_training_sessions",
            },
            ["fetched@pandas", "fetch_result"],
            name="fetch_prices",
        ),
        node(
            compare_prices,
            {
                "fetched": "fetched@spark",
                "stored_prices": "stored_prices",
                "fetch_result": "fetch_result",
                "start": "params:start",
                "end": "params:end",
            },
            "history",
            name="compare_prices",
        ),
        node(
            merge_prices,
            ["fetched@spark", "fetch_result", "history"],
            "prices",
            name="merge_prices",
        ),
        node(
            tabulate_quality,
            ["fetch_result", "history", "params:allow_missing_tickers"],
            "quality",
            name="tabulate_quality",
        ),
    ]
    preprocess = [
        node(
            select_prices,
            ["prices", "quality", "params:tickers", "params:start", "params:end"],
            "sessions",
            name="select_prices",
            tags="prices",
        ),
        node(
            make_windows,
            ["sessions", "params:window", "params:body"],
            "windows",
            name="make_windows",
        ),
        node(
            split_by_date,
            ["windows", "params:test_fraction", "params:purge"],
            ["train@spark", "test@spark"],
            name="split_by_date",
        ),
        node(
            audit_leakage,
            [
                "sessions",
                "train@spark",
                "test@spark",
                "params:window",
                "params:body",
                "params:purge",
            ],
            "leakage_audit",
            name="audit_leakage",
        ),
    ]
    return Pipeline(ingest, tags=["ingest", "prices"]) + Pipeline(preprocess, tags="preprocess")
