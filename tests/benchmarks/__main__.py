"""The command: ``python -m tests.benchmarks [NAMES] [--baseline PATH]``."""

import argparse
import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.page import page
from tests.benchmarks.registry import CASES, chosen
from tests.benchmarks.runner import Store, run_cases

PACKAGES = ("jax", "numpyro", "numpy", "arviz")
PAGE = Path("docs/benchmarks.md")


def shell(*command: str) -> str:
    """Return what a command prints, or nothing if it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def stamp() -> dict[str, Any]:
    """Return commit, date, machine and versions, as every result is marked."""
    changed = shell("git", "status", "--porcelain", "--", "numpyro_dsn", "models", "setup.cfg")
    lines = shell("lscpu").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model name")]
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    now = datetime.datetime.now()
    return {
        "commit": shell("git", "rev-parse", "--short", "HEAD") + (" and changes" * bool(changed)),
        "date": f"{now:%Y-%m-%d}",
        "began": now.isoformat(timespec="seconds"),
        "machine": f"{names[0] if names else platform.machine()}, {cores} cores, {memory:.0f} GiB",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def parse() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help="topics, or cases written topic/name")
    parser.add_argument("--baseline", type=Path, help="worktree of the commit to compare with")
    parser.add_argument("--minutes", type=float, default=90.0, help="no case begins later")
    parser.add_argument("--results", type=Path, default=Path("out/benchmarks.json"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--page-only", action="store_true", help="run nothing")
    return parser.parse_args()


def main() -> None:
    """Run cases, and write the page however far they come."""
    arguments = parse()
    if arguments.list:
        for case in CASES:
            rule = "both cores" if case.alone else "one core"
            print(f"{case.topic}/{case.name}: at most {case.limit:g} s, {rule}")
        return
    store = Store(arguments.results, stamp())
    try:
        if not arguments.page_only:
            baseline = arguments.baseline and arguments.baseline.absolute()
            run_cases(chosen(arguments.only), store, baseline, arguments.minutes)
    finally:
        arguments.page.write_text(page(store.cases, store.runs), encoding="utf-8")
        print(f"wrote {arguments.page}")


if __name__ == "__main__":
    main()
