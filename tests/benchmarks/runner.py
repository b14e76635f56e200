"""Run cases in fresh processes, and keep every result as soon as it is there."""

import datetime
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.registry import ORACLES, Case
from tests.benchmarks.rows import Row, finish

FOLDER = Path("out/benchmarks")
"""Logs and compilation caches."""


class Store:
    """The JSON file with the newest rows of every case.

    Parameters
    ----------
    file
        Path of the file.
    stamp
        What is written beside every case: commit, date and when the run began.
    """

    def __init__(self, file: Path, stamp: dict[str, Any]) -> None:
        self.file, self.stamp, self._lock = file, stamp, threading.Lock()
        known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.cases: dict[str, Any] = known.get("cases", {})
        self.runs: dict[str, Any] = known.get("runs", {})

    def put(self, case: Case, rows: list[dict[str, Any]], seconds: float) -> None:
        """Replace the rows of a case, and write the file at once."""
        with self._lock:
            entry = {"rows": rows, "process_seconds": seconds, **self.stamp}
            self.cases[f"{case.topic}/{case.name}"] = entry
            began = datetime.datetime.fromisoformat(self.stamp["began"])
            minutes = (datetime.datetime.now() - began).total_seconds() / 60
            cases = self.runs.get(self.stamp["began"], {}).get("cases", 0) + 1
            self.runs[self.stamp["began"]] = {"minutes": minutes, "cases": cases}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.file.with_suffix(".new")
            fresh.write_text(json.dumps({"cases": self.cases, "runs": self.runs}, indent=1))
            fresh.replace(self.file)


def environment(case: Case, baseline: Path | None) -> dict[str, str]:
    """Return the environment of a case: no compilation cache but the one that it names."""
    variables = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    variables |= {"CI": "true", "PYTHONUNBUFFERED": "1"}
    variables["XDG_CACHE_HOME"] = str((FOLDER / "no-cache" / case.topic).absolute())
    if case.cache is not None:
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": str((FOLDER / f"cache-{case.cache}").absolute()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    if case.package == "baseline":
        variables["BENCHMARK_PACKAGE"] = str(baseline)
    return variables


def run_process(case: Case, variables: dict[str, str], rows: Path, core: int | None) -> Any:
    """Run the process; return its seconds up to the last line that it printed, and why it failed.

    The lines are in ``out/benchmarks/TOPIC-NAME.log``.
    """
    command = [sys.executable, "-m", "tests.benchmarks.case", str(rows)]
    command += [case.function, json.dumps(case.arguments)]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    log = FOLDER / f"{case.topic}-{case.name}.log"
    began = last = time.perf_counter()
    with (
        subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        log.open("w") as file,
    ):
        overdue = threading.Event()
        timer = threading.Timer(case.limit, lambda: (overdue.set(), process.kill()))
        timer.start()
        tail = ""
        for line in process.stdout:
            last, tail = time.perf_counter(), line.strip() or tail
            file.write(line)
        process.wait()
        timer.cancel()
    if overdue.is_set():
        return case.limit, f"ended after {case.limit:g} s"
    return last - began, None if process.returncode == 0 else (tail or f"{process.returncode}")


def run_case(case: Case, store: Store, baseline: Path | None, core: int | None = None) -> None:
    """Run a case, keep its rows and print them; a failure becomes a row that says so."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows"
        seconds, failure = run_process(case, environment(case, baseline), file, core)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [finish(json.loads(line), seconds) for line in lines]
    if failure is not None:
        row = Row(case.name, seconds=seconds).that("runs", False, failure[:120])
        rows.append(finish(row.as_dict(), seconds))
    store.put(case, rows, seconds)
    for row in rows:
        mark = {True: "ok  ", False: "MISS", None: "    "}[row["passed"]]
        seed = "" if row["seed"] is None else f"seed {row['seed']}, "
        took = f"{row['seconds']:.0f} s"
        print(f"{mark} {row['problem']}: {seed}{'; '.join(row['results'])}; {took}", flush=True)


def skip(case: Case, store: Store, reason: str) -> None:
    """Say why a case was not run; results of an earlier run are kept."""
    print(f"     {case.topic}/{case.name}: {reason}", flush=True)
    if f"{case.topic}/{case.name}" not in store.cases:
        row = Row(case.name).note("", reason)
        store.put(case, [finish(row.as_dict(), 0.0)], 0.0)


def in_pairs(tasks: list[Any]) -> None:
    """Run tasks two at a time, each called with a core of its own."""
    cores: queue.Queue[int] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0))[:2]:
        cores.put(core)

    def work(task: Any) -> None:
        core = cores.get()
        try:
            task(core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_oracles(cases: list[Case]) -> None:
    """Compute the exact answers that cases need and that are not in out/oracles yet."""
    topics = dict.fromkeys(case.topic for case in cases)
    names = [name for topic in topics for name in ORACLES.get(topic, [])]
    missing = [name for name in names if not Path(f"out/oracles/{name}.json").exists()]

    def compute(name: str, core: int) -> None:
        command = ["taskset", "-c", str(core), sys.executable, "-m", "tests.benchmarks.oracles"]
        subprocess.run([*command, name], check=False)

    in_pairs([lambda core, name=name: compute(name, core) for name in missing])


def run_cases(cases: list[Case], store: Store, baseline: Path | None, minutes: float) -> None:
    """Run all cases: first those whose seconds count, then the others two at a time.

    No case begins after ``minutes``.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in {case.cache for case in cases if case.cache}:
        shutil.rmtree(FOLDER / f"cache-{name}", ignore_errors=True)
    began = time.perf_counter()
    run_oracles(cases)

    def run(case: Case, core: int | None = None) -> None:
        if time.perf_counter() - began > 60 * minutes:
            skip(case, store, f"not run: the {minutes:g} minutes were over")
        elif case.package == "baseline" and baseline is None:
            skip(case, store, "not run: no BASELINE=path/to/worktree")
        else:
            shutil.rmtree(FOLDER / "no-cache" / case.topic, ignore_errors=True)
            run_case(case, store, baseline, core)

    for case in cases:
        if case.alone:
            run(case)
    in_pairs([lambda core, case=case: run(case, core) for case in cases if not case.alone])
