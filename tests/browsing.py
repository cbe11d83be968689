"""Open the project's pages in a real browser (the fixture `browser`) and record what they do."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

EVIL = "<script>alert(1)</script>"
SIZES = {"desktop": (1280, 900), "phone": (360, 740)}
"""Width and height in pixels."""

CONTRASTS = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const against = colour => {
    const [low, high] = [light(colour), paper].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return [...document.querySelectorAll('svg text, h1, h2, p, td, th, small, dt, dd, a, summary')]
    .map(part => [part.textContent.trim().slice(0, 40),
      against(getComputedStyle(part)[part.closest('svg') ? 'fill' : 'color'])]);
}"""
"""JavaScript that returns every text of the page with its contrast to the background."""


class WatchedPage:
    """A page, and everything it did that it should not."""

    def __init__(self, page: Page):
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda message: self.problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if not request.url.startswith("file://"):
            self.problems.append(f"request: {request.url}")


def open_page(browser: Browser, file: Path, theme: Any, size: str) -> WatchedPage:
    """Open a file in a theme (light or dark) and a size of `SIZES`."""
    width, height = SIZES[size]
    watched = WatchedPage(
        browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    )
    watched.page.goto(file.as_uri())
    return watched
