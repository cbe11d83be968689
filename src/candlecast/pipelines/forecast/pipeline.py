"""Source → fetched → prices; prices, champion → forecasts → track record."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines import data_engineering
from candlecast.pipelines.forecast.nodes import (
    describe_champion,
    judge_champion,
    make_forecasts,
    merge_forecasts,
    score_newest,
    watch_inputs,
    write_track_record,
)

SHARED = (
    *("fetch_sessions", "compare_prices", "merge_prices", "tabulate_quality", "select_sessions"),
)
"""Nodes of data_engineering: prices are fetched anew, and checked as for training."""


def create_pipeline() -> Pipeline:
    """Fetch prices, forecast each ticker's next session, fill in outcomes, judge the champion."""
    prices = data_engineering.create_pipeline().only_nodes(*SHARED)
    return prices + Pipeline(
        [
            node(
                describe_champion,
                "champion",
                "champion_facts",
                name="describe_champion",
            ),
            node(
                score_newest,
                ["sessions", "champion"],
                "newest_scores",
                name="score_newest",
            ),
            node(
                make_forecasts,
                {
                    "newest_scores": "newest_scores",
                    "champion": "champion",
                    "tickers": "params:tickers",
                    "now": "clock",
                    "prices_version": "prices_version",
                },
                "new_forecasts",
                name="make_forecasts",
            ),
            node(
                merge_forecasts,
                ["new_forecasts", "stored_forecasts", "prices"],
                "forecasts",
                name="merge_forecasts",
            ),
            node(
                watch_inputs,
                ["sessions", "champion", "params:monitoring"],
                "drift",
                name="watch_inputs",
            ),
            node(
                judge_champion,
                {
                    "forecasts": "forecasts",
                    "champion_facts": "champion_facts",
                    "drift": "drift",
                    "monitoring": "params:monitoring",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                },
                "track_record",
                name="judge_champion",
            ),
            node(
                write_track_record,
                ["track_record", "forecasts"],
                "track_record_page",
                name="write_track_record",
            ),
        ]
    )
