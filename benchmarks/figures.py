"""Start Spark, time contenders in turn, and print their figures: what all benchmarks share."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Figure = dict[str, Any]
Times = Mapping[str, Sequence[float]]
"""The seconds of each round, by contender."""

ROUNDS = 3

ROOT = Path(__file__).parents[1]
KEDRO = str(Path(sys.executable).with_name("kedro"))
"""The command of this environment."""
scratch = TemporaryDirectory()
"""Of Spark; removed when this process ends."""


def start_spark() -> "SparkSession":
    """Start Spark as for a whole market, or return the session that runs."""
    from candlecast.runtime.spark import start_session

    settings = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())
    return start_session({**settings["session"], **settings["market"]}, Path(scratch.name))


def seconds(command: Sequence[str]) -> float:
    """Return the wall-clock seconds of a command, whose output is not shown."""
    since = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - since


def in_turn(contenders: Mapping[str, Callable[[], float]], rounds: int) -> Times:
    """Time contenders in turn for several rounds; each is a function that returns seconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, time_it in contenders.items():
            times[name].append(time_it())
    return times


def compare(
    title: str, times: Times, peers: Sequence[str], aims: Sequence[float | None] = (), why: str = ""
) -> list[Figure]:
    """Print the median of each contender and its ratio to the first peer.

    Args:
        title: what the contenders do.
        times: of all contenders.
        peers: those of them that are not ours.
        aims: the ratios aimed at, in the order of what is returned; above 1 ours is faster.
        why: why ours may be behind, one sentence.

    Returns:
        One figure per pair of a contender of ours and a peer.
    """
    typical = {name: median(seconds) for name, seconds in times.items()}
    rounds = len(times[peers[0]])
    sys.stdout.write(f"{title}: median of {rounds} [smallest, largest]\n")
    for name, seconds in times.items():
        sys.stdout.write(
            f"  {name:<38} {typical[name]:7.2f} s [{min(seconds):.2f}, {max(seconds):.2f}]"
            f"  {typical[peers[0]] / typical[name]:5.2f} x\n"
        )
    sys.stdout.flush()
    pairs = [(own, peer) for own in times if own not in peers for peer in peers]
    return [
        {
            "figure": title if len(times) - len(peers) == 1 else f"{title}: {own}",
            "ours": typical[own],
            "peer": peer,
            "theirs": typical[peer],
            "ratio": typical[peer] / typical[own],
            "aim": aim,
            "why": why,
            "times": {own: times[own], peer: times[peer]},
        }
        for (own, peer), aim in zip(pairs, aims or [None] * len(pairs), strict=True)
    ]


def machine() -> str:
    """Describe this machine: processor, cores, Python."""
    model = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def make_table(figures: Sequence[Figure]) -> str:
    """Return the table as text, and below it why figures are behind, each reason once."""
    lines = [f"{'figure':<58} {'ours':>9}  {'peer':<32} {'peer':>9} {'ratio':>7} {'aim':>6}"]
    behind: dict[str, str] = {}
    for each in figures:
        aim = "" if each["aim"] is None else f"{each['aim']:.2f}"
        lines.append(
            f"{each['figure']:<58} {each['ours']:7.2f} s  {each['peer']:<32} "
            f"{each['theirs']:7.2f} s {each['ratio']:5.2f} x {aim:>6}"
        )
        if each["why"] and each["ratio"] < (each["aim"] or 1):
            behind.setdefault(each["why"], each["figure"])
    reasons = [f"{figure}: {why}" for why, figure in behind.items()]
    return "\n".join([*lines, machine(), *reasons]) + "\n"
