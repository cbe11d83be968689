"""The report in a real browser, opened from a file.

Screenshots go to the folder that CANDLECAST_SCREENSHOTS names, otherwise to a temporary one.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from playwright.sync_api import Browser

from browsing import CONTRASTS, EVIL, SIZES, opened
from candlecast.parameters import Gate
from candlecast.pipelines.reporting import create_pipeline

TICKERS = ["AAPL", "FB", "IBM", "MSFT", EVIL]
SECTIONS = ["verdict", "scores", "classes", "curves", "estimators", "groups"]
SECTIONS += ["trading", "quality", "lineage", "limits"]
FORESTS = [50, 100, 200, 500, 1000]


def simulate() -> dict[str, Any]:
    """What the pipeline reads: five tickers on 600 sessions, FB on the last three only."""
    rng = np.random.default_rng(4284)
    sessions = pd.bdate_range("2021-01-04", periods=600)
    market = rng.normal(0, 0.008, len(sessions))
    frames = []
    for ticker in TICKERS:
        move = market + rng.normal(0, 0.01, len(sessions))
        frame = pd.DataFrame({"ticker": ticker, "session": sessions, "body": move})
        frame = frame.assign(
            return_=move,
            up=(move > 0).astype(np.int8),
            probability=0.5 + 0.1 * move + rng.normal(0, 0.02, len(sessions)),
            always_up=1.0,
            majority=0.0,
            previous_day=(frame["body"].shift(fill_value=0) > 0).astype(float),
            base_rate=0.497,
            logistic=0.5 + rng.normal(0, 0.01, len(sessions)),
        )
        frames.append(frame.tail(3) if ticker == "FB" else frame)
    predictions = pd.concat(frames, ignore_index=True)
    validated = pd.bdate_range("2010-01-04", periods=1200)
    base_rate = 0.693 + rng.normal(0, 0.01, len(validated))
    losses = {f"trees_{n}": base_rate + rng.normal(0, 0.005, 1200) for n in FORESTS}
    rules = ["stored", "no open or close", "open equals previous close", "sessions absent"]
    return {
        "test_scores": predictions,
        "train@pandas": predictions[predictions["ticker"] != "FB"].assign(
            session=lambda frame: frame["session"] - pd.DateOffset(years=4)
        ),
        "validation_losses": pd.DataFrame({"session": validated, "base_rate": base_rate, **losses}),
        "model_selection": [
            {"trees": trees, "log_loss": 0.6935 - place / 1e4, "accuracy": 0.51, "roc_auc": 0.515}
            | {f"fold_{fold}.log_loss": 0.693 + fold / 1e3 for fold in range(1, 6)}
            | {"log_loss_se": 0.001, "training_f1": 0.55 + place / 1e3}
            | {"chosen": trees == 50, "original_rule": trees == 1000}
            for place, trees in enumerate(FORESTS)
        ],
        "leakage_audit": {
            "last_training_session": "2020-01-02",
            "first_test_session": "2020-02-03",
            "purged_sessions": 14,
            "rows_in_both": 0,
            "rows_audited": 1234,
            "rows_with_wrong_lags": 0,
        },
        "quality": pd.DataFrame(
            [
                {"ticker": ticker, "rule": rule, "found": len(rule), "detail": "kept"}
                | {"rows_in": 3270, "rows_kept": 3270, "rows_dropped": 0}
                for ticker in TICKERS
                for rule in rules
            ]
        ),
        "lineage": {
            "candidate": "github-1234567890-1",
            "run_id": "3692615a72d448d28762c541ff2ce3b0",
            "experiment": "candlecast",
            "started": "2024-03-01 12:00 UTC",
            "git_commit": "e6568fad551bd2fc92953c466b05c2a0e8815516",
            "candlecast": "0.1.0",
            "packages": {"mlflow": "3.17.2", "numpy": "2.4.6", "scikit-learn": "1.9.1"},
            "versions": {"prices": 4, "test": 4, "test_scores": 4, "train": 4},
            "parameters": {"tickers": str(TICKERS), "window": "14"},
        },
        "params:evaluation": {"repetitions": 1000, "cost_bps": 5.0},
        "params:gate": Gate(
            metric="accuracy", threshold=0.0, min_sessions=250, champion_margin=0.03
        ),
        "params:window": 14,
        "params:tickers": sorted(predictions["ticker"].unique()),
        "params:body": "return",
        "params:seed": 4284,
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report made by the pipeline itself."""
    inputs = {name: MemoryDataset(value) for name, value in simulate().items()}
    catalog = DataCatalog(inputs | {"report": MemoryDataset()})
    SequentialRunner().run(create_pipeline(), catalog)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(catalog.load("report"), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_quiet_whole_and_fits(
    browser: Browser, report: Path, tmp_path: Path, theme: str, size: str
) -> None:
    watched = opened(browser, report, theme, size)
    page = watched.page
    folder = Path(os.environ.get("CANDLECAST_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"report-{theme}-{size}.png")
    page.screenshot(path=folder / f"report-{theme}-{size}-whole.png", full_page=True)
    assert [page.locator(f"#{name} >> visible=true").count() for name in SECTIONS] == [1] * 10
    assert page.locator("svg[role=img]").count() == 5
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert watched.complaints == []
    page.close()


def test_the_first_screen_holds_verdict_gate_and_what_was_trained(
    browser: Browser, report: Path
) -> None:
    page = opened(browser, report, "light", "desktop").page
    for text in ("Gate ", "github-1234567890-1", "Trained on", "Tested on", "A person may now"):
        box = page.get_by_text(text).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= SIZES["desktop"][1], text
    page.close()


def test_fault_30_a_ticker_that_is_html_is_shown_as_text(browser: Browser, report: Path) -> None:
    watched = opened(browser, report, "light", "desktop")
    page = watched.page
    assert page.get_by_role("rowheader", name=EVIL).first.inner_text() == EVIL
    assert page.evaluate("document.scripts.length") == 0
    assert watched.complaints == []
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read_in_both_themes(browser: Browser, report: Path, theme: str) -> None:
    page = opened(browser, report, theme, "desktop").page
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert [text for text, contrast in contrasts if contrast < 4.5] == []  # WCAG 2, level AA
    page.close()


def test_print_shows_what_is_folded_on_the_screen(browser: Browser, report: Path) -> None:
    page = opened(browser, report, "dark", "desktop").page
    folded = page.locator("details table").first
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    page.close()
