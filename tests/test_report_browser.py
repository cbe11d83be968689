"""The report in a real browser, opened from a file.

Screenshots go to the folder that CANDLECAST_SCREENSHOTS names, otherwise to a temporary one.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from browsing import CONTRASTS, EVIL, SIZES, open_page
from candlecast.frames import extent
from reports import LINEAGE, make_report, predicted

TICKERS = ["AAPL", "FB", "IBM", "MSFT", EVIL]
SECTIONS = [
    "verdict",
    "limits",
    "metrics",
    "classes",
    "curves",
    "estimators",
    "importance",
    "groups",
]
SECTIONS += ["trading", "quality", "lineage"]
ESTIMATORS = ["logistic", "forest_50", "forest_1000", "boosting", "HistGradientBoostingClassifier"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of five tickers on 600 sessions, of FB on the last three only."""
    rng = np.random.default_rng(4284)
    market = rng.normal(0, 0.008, 600)
    frames = []
    for ticker in TICKERS:
        move = market + rng.normal(0, 0.01, 600)
        probability = 0.5 + 0.1 * move + rng.normal(0, 0.02, 600)
        up = (move > 0).astype(int).tolist()
        frame = predicted(up, probability.tolist(), ticker).assign(body=move, return_=move)
        frames.append(frame.tail(3) if ticker == "FB" else frame)
    predictions = pd.concat(frames, ignore_index=True)
    old = predictions[predictions["ticker"] != "FB"]
    validated = pd.bdate_range("2010-01-04", periods=1200)
    base_rate = 0.693 + rng.normal(0, 0.01, len(validated))
    losses = {name: base_rate + rng.normal(0, 0.005, 1200) for name in ESTIMATORS}
    result = make_report(
        predictions,
        validation_losses=pd.DataFrame({"session": validated, "base_rate": base_rate, **losses}),
        model_selection=[
            {"estimator": name, "log_loss": 0.6935 - place / 1e4, "accuracy": 0.51}
            | {"roc_auc": 0.515}
            | {f"fold_{fold}.log_loss": 0.693 + fold / 1e3 for fold in range(1, 6)}
            | {"log_loss_se": 0.001, "training_f1": 0.55 + place / 1e3}
            | {"chosen": name == "logistic", "original_rule": name == "boosting"}
            for place, name in enumerate(ESTIMATORS)
        ],
        training_extent=extent(old.assign(session=old["session"] - pd.DateOffset(years=4))),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(result["report"], encoding="utf-8")
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_quiet_whole_and_fits(
    browser: Browser, report: Path, tmp_path: Path, theme: str, size: str
) -> None:
    watched = open_page(browser, report, theme, size)
    page = watched.page
    folder = Path(os.environ.get("CANDLECAST_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"report-{theme}-{size}.png")
    page.screenshot(path=folder / f"report-{theme}-{size}-whole.png", full_page=True)
    assert [page.locator(f"#{name} >> visible=true").count() for name in SECTIONS] == [1] * len(
        SECTIONS
    )
    assert page.locator("svg[role=img]").count() == 6
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert watched.problems == []
    page.close()


def test_the_first_screen_holds_verdict_gate_and_comparison(browser: Browser, report: Path) -> None:
    page = open_page(browser, report, "light", "desktop").page
    for text in ("May I use it?", LINEAGE["candidate"], "Compared to what?", "Best simple rule"):
        box = page.get_by_text(text).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= SIZES["desktop"][1], text
    page.close()


def test_fault_30_a_ticker_that_is_html_is_shown_as_text(browser: Browser, report: Path) -> None:
    watched = open_page(browser, report, "light", "desktop")
    page = watched.page
    assert page.get_by_role("rowheader", name=EVIL).first.inner_text() == EVIL
    assert page.evaluate("document.scripts.length") == 0
    assert watched.problems == []
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read_in_both_themes(browser: Browser, report: Path, theme: str) -> None:
    page = open_page(browser, report, theme, "desktop").page
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert [text for text, contrast in contrasts if contrast < 4.5] == []  # WCAG 2, level AA
    page.close()


def test_print_shows_what_is_folded_on_the_screen(browser: Browser, report: Path) -> None:
    page = open_page(browser, report, "dark", "desktop").page
    folded = page.locator("details table").first
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    page.close()
