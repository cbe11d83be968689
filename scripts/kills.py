"""Kills commands at random moments, and checks what they leave and that they finish when repeated.

``python scripts/kills.py [--kills 40] [--seed 1] [--folder DIR]``, about 40 minutes on two cores.
Commands, signals and moments take turns: a first run, a run beside a champion, a registration, a
forecast and a rollback; SIGKILL to the group, SIGKILL to the leader, SIGTERM to the leader, SIGINT
to the group as Ctrl-C does; every second one at the next write of a file below the data root.

After each: every table and the store are whole, the champion is the old or the new one, and a
signal that could be handled has left one line, its exit code and a killed MLflow run. Then the same
command runs again: tables, metrics and registry are those of an undisturbed run. It prints one line
per kill, and ends with 1 if one of them failed.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

PROJECT = Path(__file__).parents[1]
SMALL = (
    "tickers=AAPL IBM,start=2010-01-01,estimators=forest_5 forest_10 forest_20,folds=3,"
    "evaluation.repetitions=1000"
)
APPROVAL = "approver=Ada,override_reason=drill"
COMMANDS = {
    "first run": ("empty", ["--params", f"{SMALL},candidate=one"]),
    "registration of one": (
        "first run",
        ["--pipelines", "registration", "--params", f"candidate=one,{APPROVAL}"],
    ),
    "run": ("registration of one", ["--params", f"{SMALL},candidate=two"]),
    "registration": (
        "run",
        ["--pipelines", "registration", "--params", f"candidate=two,{APPROVAL}"],
    ),
    "forecast": ("registration", ["--pipelines", "forecast", "--params", SMALL]),
    "rollback": ("registration", ["--pipelines", "rollback", "--params", "approver=Ada"]),
}
"""What a command starts from (what another one leaves), and its options."""

KILLED = [name for name in COMMANDS if name != "registration of one"]
SIGNALS = (
    (signal.SIGKILL, True),
    (signal.SIGINT, True),
    (signal.SIGKILL, False),
    (signal.SIGTERM, False),
)
"""And whether the whole group gets it, or its leader alone."""

RANDOM_COLUMNS = ["ingested_at", "made_at", "prices_version"]
"""What differs between two undisturbed runs."""


class Failure(Exception):
    """A command has left what it must not leave."""


def report(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def start(root: Path, options: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``kedro run`` as the leader of a group of its own."""
    *options, parameters = options
    command = [str(Path(sys.executable).with_name("kedro")), "run", *options]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, f"{parameters},data_root={root}"],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def files(root: Path) -> set[str]:
    """The files below a data root, without Spark's own."""
    return {
        str(file)
        for folder in ("tables", "mlflow", "training", "reporting")
        for file in (root / folder).rglob("*")
    }


def kill(
    running: subprocess.Popen[bytes],
    root: Path,
    moment: float,
    number: int,
    *,
    group: bool,
    write: bool,
) -> int | None:
    """Send a signal after so many seconds, or at the next write; return the exit code.

    None: the command had ended before.
    """
    try:
        running.wait(moment)
        return None
    except subprocess.TimeoutExpired:
        pass
    if write:
        before = files(root)
        while running.poll() is None and files(root) <= before:
            time.sleep(0.002)
        if running.poll() is not None:
            return None
    (os.killpg if group else os.kill)(running.pid, number)
    code = running.wait(60)
    for _ in range(200):  # Java ends when its parent has gone
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return code
        time.sleep(0.1)
    raise Failure("a process of it is still there after 20 s")


# --- What must hold -------------------------------------------------------------------------------


def read_table(table: Path) -> pd.DataFrame:
    """Read the newest version of a Delta table without Spark: every file that its log names."""
    live: dict[str, Any] = {}
    logs = sorted((table / "_delta_log").glob("[0-9]*.json"))
    if [int(log.stem) for log in logs] != list(range(len(logs))):
        raise Failure(f"{table.name}: its log has gaps")
    for log in logs:
        for action in map(json.loads, log.read_text().splitlines()):
            if "add" in action:
                live[action["add"]["path"]] = json.loads(action["add"]["stats"])["numRecords"]
            elif "remove" in action:
                live.pop(action["remove"]["path"], None)
    frames = {path: pq.read_table(table / path, partitioning=None).to_pandas() for path in live}
    if wrong := [path for path, frame in frames.items() if len(frame) != live[path]]:
        raise Failure(f"{table.name}: {wrong} have other rows than its log says")
    return pd.concat(frames.values()) if frames else pd.DataFrame()


def read_tables(root: Path) -> dict[str, pd.DataFrame]:
    """Read all tables that have a commit, without what differs between two undisturbed runs."""
    tables = {}
    for log in sorted(root.glob("tables/*/_delta_log")):
        if not list(log.glob("*.json")):
            continue
        table = read_table(log.parent).drop(columns=RANDOM_COLUMNS, errors="ignore")
        if log.parent.name == "quality":  # a run again compares with the stored prices
            table = table[~table["rule"].str.startswith(("history", "prices changed"))]
        tables[log.parent.name] = table.sort_values(list(table)).reset_index(drop=True)
    return tables


def read_store(root: Path) -> dict[str, Any]:
    """Read MLflow's store without MLflow."""
    file = root / "mlflow/mlflow.db"
    if not file.exists():
        return {"aliases": {}, "versions": [], "runs": {}, "metrics": {}, "twice": []}
    with closing(sqlite3.connect(file)) as store:
        if (found := store.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            raise Failure(f"{file.name}: {found}")
        runs = dict(
            store.execute(
                "SELECT tags.value, status FROM runs JOIN tags USING (run_uuid) "
                "WHERE tags.key = 'candidate'"
            )
        )
        metrics = {
            (candidate, key): value
            for candidate, key, value in store.execute(
                "SELECT tags.value, m.key, m.value FROM latest_metrics m JOIN tags USING (run_uuid)"
                " WHERE tags.key = 'candidate'"
            )
        }
        return {
            "aliases": dict(store.execute("SELECT alias, version FROM registered_model_aliases")),
            "versions": sorted(store.execute("SELECT version FROM model_versions").fetchall()),
            "runs": runs,
            "metrics": metrics,
            "twice": store.execute(
                "SELECT key, count(*) FROM metrics GROUP BY run_uuid, key HAVING count(*) > 1"
            ).fetchall(),
        }


def read_root(root: Path) -> dict[str, Any]:
    """Read what a run leaves: tables, files and store."""
    numbers = {
        name: json.loads(file.read_text())
        for name in ("metrics", "gate", "track_record")
        if (file := root / f"reporting/{name}.json").exists()
    }
    return {"tables": read_tables(root), "files": numbers, "store": read_store(root)}


def check_end(
    code: int, number: int, output: str, before: dict[str, Any], after: dict[str, Any]
) -> str:
    """Check how a command has ended that could handle its signal; return the phase."""
    lines = output.strip().splitlines()
    if "Aborted!" in lines[-1:] or code == -number or "KeyboardInterrupt" in lines[-1:]:
        if after["runs"] != before["runs"]:
            raise Failure(f"ended with {code} and left a run")
        return "before the project was loaded"
    if code != 128 + number:
        raise Failure(f"exit code {code}:\n{output}")
    if not lines or f"Ended by {signal.Signals(number).name}" not in lines[-1]:
        raise Failure(f"it did not say why it ended:\n{output}")
    noise = [line for line in lines[:-1] if re.search(r"Traceback|\tat |ERROR|Exception", line)]
    if noise:
        raise Failure(f"{len(noise)} lines of noise:\n{output}")
    return "handled"


def same(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Name what a repeated command left otherwise than an undisturbed one."""
    for name in sorted(found["tables"].keys() | wanted["tables"].keys()):
        pair = [each["tables"].get(name, pd.DataFrame()) for each in (found, wanted)]
        if not pair[0].equals(pair[1]):
            yield f"table {name}: {len(pair[0])} rows, undisturbed {len(pair[1])}"
    for name in wanted["files"]:
        texts = [json.dumps(each["files"].get(name), sort_keys=True) for each in (found, wanted)]
        if name != "track_record" and texts[0] != texts[1]:
            yield f"{name}.json"
    for name in ("aliases", "versions", "runs", "metrics", "twice"):
        if found["store"][name] != wanted["store"][name]:
            yield f"store, {name}: {found['store'][name]}, undisturbed {wanted['store'][name]}"


# --- The drill ------------------------------------------------------------------------------------


def restore(state: Path, root: Path) -> None:
    """Put a state back at the one path that MLflow's store and models name."""
    shutil.rmtree(root, ignore_errors=True)
    if state.exists():
        shutil.copytree(state, root)


def rehearse(root: Path, states: Path) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Run each command once; return its seconds and what it left, and keep a copy."""
    seconds, left = {}, {}
    for name, (state, options) in COMMANDS.items():
        restore(states / state, root)
        log, began = root.with_suffix(".log"), time.monotonic()
        if code := start(root, options, log).wait():
            raise Failure(f"{name}, undisturbed: {code}\n{log.read_text()}")
        seconds[name], left[name] = time.monotonic() - began, read_root(root)
        shutil.copytree(root, states / name, ignore=shutil.ignore_patterns("spark"))
        report(f"undisturbed {name}: {seconds[name]:.0f} s")
    return seconds, left


def drill(root: Path, name: str, moment: float, turn: int, states: Path, undisturbed: Any) -> str:
    """Kill one command and run it again; return what was seen."""
    state, options = COMMANDS[name]
    number, group = SIGNALS[turn % len(SIGNALS)]
    write = turn // len(SIGNALS) % 2 == 1
    restore(states / state, root)
    before, log = read_root(root), root.with_suffix(".log")
    code = kill(start(root, options, log), root, moment, number, group=group, write=write)
    killed, output = read_root(root), log.read_text()
    champions = [each["store"]["aliases"].get("champion") for each in (killed, before, undisturbed)]
    if champions[0] not in champions[1:]:
        raise Failure(f"champion {champions[0]}")
    phase = "killed" if code is not None else "it had ended"
    if code is not None and number != signal.SIGKILL:
        phase = check_end(code, number, output, before["store"], killed["store"])
    if phase == "handled" and "run" in name:
        phase += f", run {killed['store']['runs'].get(options[-1].rpartition('=')[2])}"
    lines = [line for line in output.splitlines() if line.strip()]
    if code := start(root, options, log).wait():
        raise Failure(f"again: {code}\n{log.read_text()}")
    if differences := [*same(read_root(root), undisturbed)]:
        raise Failure("again: " + "; ".join(differences))
    what = f"{signal.Signals(number).name} to the {'group' if group else 'leader'}"
    what += " at a write" if write else ""
    return f"{what} after {moment:.1f} s: {phase}; its last line: {lines[-1] if lines else 'none'}"


def main() -> int:
    """Run all kills; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    given = parser.parse_args()
    random_ = random.Random(given.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        root, states = folder / "root", folder / "states"
        shutil.rmtree(states, ignore_errors=True)
        seconds, undisturbed = rehearse(root, states)
        of_each = -(-given.kills // len(KILLED))
        for turn in range(given.kills):
            repeat, place = divmod(turn, len(KILLED))
            name = KILLED[place]
            moment = (repeat + random_.random()) / of_each * seconds[name]
            try:
                seen = drill(root, name, moment, repeat + place, states, undisturbed[name])
            except Failure as failure:
                failed += 1
                seen = f"FAILED after {moment:.1f} s: {failure}"
                shutil.copytree(root, folder / f"failed {turn + 1}", dirs_exist_ok=True)
            report(f"{turn + 1:3} {name}: {seen}")
    report(f"{given.kills} kills, {failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
