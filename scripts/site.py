"""Build the site of GitHub Pages in site/: the last run's report, and the pipelines as a graph.

``python scripts/site.py``, in a project whose data root is ``data``.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

SITE = Path("site")
GRAPH = SITE / "pipelines"
FONTS = r"<link\b[^>]*fonts\.(?:googleapis|gstatic)\.com[^>]*>\s*"
WITHOUT_HINTS = """<script>localStorage.KedroViz ??= '{"showFeatureHints":false}'</script>"""


def main() -> None:
    """Build both, and take out what belongs to this machine or calls another one."""
    kedro = Path(sys.executable).with_name("kedro")
    for folder in (Path("build"), SITE):  # kedro-viz 12.5 builds in build/ alone
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([kedro, "viz", "build", "--include-previews"], check=True)
    shutil.move("build", GRAPH)
    (GRAPH / "telemetry.html").unlink()
    for file in (GRAPH / "api").rglob("*"):
        if file.is_file():
            replace(file, re.escape(f"{Path.cwd().as_posix()}/"), "")
    replace(GRAPH / "index.html", FONTS, "")
    replace(GRAPH / "index.html", "<head>", f"<head>{WITHOUT_HINTS}")
    for file in (GRAPH / "assets").glob(
        "index-*.js"
    ):  # else only at a site's root is there a status
        replace(file, r'fetch\("/api/', 'fetch("./api/')
    report = SITE / "index.html"
    shutil.copy("data/reporting/report.html", report)
    contents = '<nav aria-label="Contents">'
    replace(report, contents, f'{contents}<a href="pipelines/">Pipelines</a>')


def replace(file: Path, pattern: str, text: str) -> None:
    """Replace a pattern in a file, if it is there."""
    file.write_text(re.sub(pattern, text, file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
