"""How long the tests take. Not run unless asked for: ``make benchmark ONLY=suite``."""

import subprocess
from collections.abc import Iterator

from tests.benchmarks.rows import Row


def suite(command: str, limit: float) -> Iterator[Row]:
    """Seconds of a command, which has to succeed."""
    code = subprocess.run(command.split()).returncode
    yield Row(f"`{command}`").that("passes", code == 0, f"exit {code}").within_seconds(limit)
