"""The table of figures that ``make bench`` prints at its end.

A benchmark writes a line of JSON per figure among its other output; `bench.py` gathers them.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Figure = dict[str, Any]


def emit(
    figure: str, ours: float, peer: str, theirs: float, *, aim: float | None = None, why: str = ""
) -> None:
    """Write a figure to the standard output.

    Args:
        figure: what is measured.
        ours: seconds.
        peer: what it is compared with.
        theirs: its seconds.
        aim: the ratio aimed at, `theirs` / `ours`: above 1 candlecast is faster.
        why: why it is behind, one sentence.
    """
    values = {"figure": figure, "ours": ours, "peer": peer, "theirs": theirs}
    sys.stdout.write(json.dumps({**values, "ratio": theirs / ours, "aim": aim, "why": why}) + "\n")
    sys.stdout.flush()


def read_figure(line: str) -> Figure | None:
    """Return the figure that a line of output holds; None: it is text."""
    return json.loads(line) if line.startswith('{"figure"') else None


def machine() -> str:
    """Describe this machine: processor, cores, Python."""
    model = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def make_table(figures: Sequence[Figure]) -> str:
    """Return the table as text, and below it why a figure is behind its aim."""
    lines = [f"{'figure':<50} {'ours':>9}  {'peer':<32} {'peer':>9} {'ratio':>7} {'aim':>6}"]
    behind = []
    for each in figures:
        aim = "" if each["aim"] is None else f"{each['aim']:.2f}"
        lines.append(
            f"{each['figure']:<50} {each['ours']:7.2f} s  {each['peer']:<32} "
            f"{each['theirs']:7.2f} s {each['ratio']:5.2f} x {aim:>6}"
        )
        if each["why"] and each["ratio"] < (each["aim"] or 1):
            behind.append(f"{each['figure']}: {each['why']}")
    return "\n".join([*lines, machine(), *behind]) + "\n"
