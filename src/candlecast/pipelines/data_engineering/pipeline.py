"""Source → fetched → prices, quality → windows → train, test."""

from kedro.pipeline import Pipeline, node

from candlecast.features.audit import audit_leakage
from candlecast.features.split import count_needed_sessions, split_by_date
from candlecast.features.windows import make_windows
from candlecast.pipelines.data_engineering.nodes import (
    accept_tickers,
    collect_outcomes,
    fetch_prices,
    require_all_tickers,
    select_prices,
    tabulate_quality,
)
from candlecast.sources.merging import compare_prices, merge_prices


def create_pipeline() -> Pipeline:
    """Fetch and check prices (tag ``ingest``), then window and split them (tag ``preprocess``).

    The tag ``prices`` marks what a forecast needs as well: all nodes up to `selected_prices`.
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
                "calendar": "params:calendar",
                "now": "params:now",
            },
            "fetched@files",
            name="fetch_prices",
        ),
        node(
            collect_outcomes,
            ["fetched@files", "params:tickers", "params:prices"],
            "fetch_result",
            name="collect_outcomes",
        ),
        node(
            count_needed_sessions,
            {
                "window": "params:window",
                "purge": "params:purge",
                "folds": "params:folds",
                "test_fraction": "params:test_fraction",
                "min_training_sessions": "params:min_training_sessions",
            },
            "needed_sessions",
            name="count_needed_sessions",
        ),
        node(
            accept_tickers,
            {
                "fetch_result": "fetch_result",
                "needed_sessions": "needed_sessions",
                "allow_missing_tickers": "params:allow_missing_tickers",
            },
            "accepted_tickers",
            name="accept_tickers",
        ),
        node(
            compare_prices,
            {
                "fetched": "fetched@spark",
                "stored_prices": "stored_prices",
                "tickers": "accepted_tickers",
                "start": "params:start",
                "end": "params:end",
                "requested": "params:tickers",
                "prices_from": "params:prices",
            },
            ["price_changes", "unchanged_histories"],
            name="compare_prices",
        ),
        node(
            merge_prices,
            ["fetched@spark", "price_changes", "unchanged_histories"],
            "prices",
            name="merge_prices",
        ),
        node(
            tabulate_quality,
            ["fetch_result", "price_changes", "params:prices"],
            "quality",
            name="tabulate_quality",
        ),
        node(
            require_all_tickers,
            {
                "fetch_result": "fetch_result",
                "prices": "prices",
                "quality": "quality",
                "allow_missing_tickers": "params:allow_missing_tickers",
            },
            None,
            name="require_all_tickers",
        ),
    ]
    select = node(
        select_prices,
        {
            "prices": "prices",
            "quality": "quality",
            "tickers": "params:tickers",
            "prices_from": "params:prices",
            "start": "params:start",
            "end": "params:end",
            "calendar": "params:calendar",
            "now": "params:now",
        },
        ["selected_prices", "selected_tickers"],
        name="select_prices",
    )
    preprocess = [
        node(
            make_windows,
            {
                "prices": "selected_prices",
                "window": "params:window",
                "body": "params:body",
                "features": "params:features",
            },
            "windows",
            name="make_windows",
        ),
        node(
            split_by_date,
            {
                "windows": "windows",
                "test_fraction": "params:test_fraction",
                "purge": "params:purge",
            },
            ["train@spark", "test@spark"],
            name="split_by_date",
        ),
        node(
            audit_leakage,
            {
                "prices": "selected_prices",
                "train": "train@spark",
                "test": "test@spark",
                "window": "params:window",
                "body": "params:body",
                "features": "params:features",
                "purge": "params:purge",
            },
            "leakage_audit",
            name="audit_leakage",
        ),
    ]
    return (
        Pipeline(ingest, tags=["ingest", "prices"])
        + Pipeline([select], tags=["preprocess", "prices"])
        + Pipeline(preprocess, tags="preprocess")
    )
