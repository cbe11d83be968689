"""Source → fetched → prices; prices, champion → forecasts → track record."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines import data_engineering
from candlecast.pipelines.forecast.nodes import (
    describe_champion,
    evaluate_champion,
    make_forecasts,
    measure_input_drift,
    merge_forecasts,
    predict_sessions,
)
from candlecast.reporting.track_record import write_track_record


def create_pipeline() -> Pipeline:
    """Forecast each ticker's next session, fill in outcomes, evaluate the champion.

    The parameter ``since`` adds the forecasts of earlier sessions that are missing.
    Prices are fetched and checked as for training: by the nodes of data_engineering with the tag
    ``prices``.
    """
    prices = data_engineering.create_pipeline().only_nodes_with_tags("prices")
    return prices + Pipeline(
        [
            node(describe_champion, "champion", "champion_summary", name="describe_champion"),
            node(
                predict_sessions,
                ["selected_prices", "champion", "params:calendar", "params:since"],
                "predictions",
                name="predict_sessions",
            ),
            node(
                make_forecasts,
                {
                    "predictions": "predictions",
                    "champion": "champion",
                    "tickers": "selected_tickers",
                    "now": "params:now",
                    "prices_version": "prices_version",
                    "calendar": "params:calendar",
                    "monitoring": "params:monitoring",
                },
                "new_forecasts",
                name="make_forecasts",
            ),
            node(
                merge_forecasts,
                {
                    "new_forecasts": "new_forecasts",
                    "stored_forecasts": "stored_forecasts",
                    "prices": "prices",
                },
                "forecasts",
                name="merge_forecasts",
            ),
            node(
                measure_input_drift,
                {
                    "selected_prices": "selected_prices",
                    "champion": "champion",
                    "monitoring": "params:monitoring",
                },
                "drift",
                name="measure_input_drift",
            ),
            node(
                evaluate_champion,
                {
                    "forecasts": "forecasts",
                    "champion_summary": "champion_summary",
                    "drift": "drift",
                    "monitoring": "params:monitoring",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                },
                "track_record",
                name="evaluate_champion",
            ),
            node(
                write_track_record,
                ["track_record", "forecasts"],
                "track_record_page",
                name="write_track_record",
            ),
        ]
    )
