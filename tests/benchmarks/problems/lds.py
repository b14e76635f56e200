"""The two-dimensional linear system of the draft, both targets."""

import time
from collections.abc import Iterator

import jax
import numpy as np

from models.lds import TARGETS, circuit
from numpyro_dsn import DSN
from tests.benchmarks.rows import Row


def check(name: str, target: str, seed: int, result, seconds: float | None) -> Row:
    """Entropy, violation and the mass of the mode with a12 > 0."""
    from tests.benchmarks.fits import VIOLATION, report
    from tests.benchmarks.oracles import oracle
    from tests.benchmarks.rows import worst

    positive = np.mean(result.sample(jax.random.key(99), 20_000)["a"][:, 1] > 0)
    row = Row(name, seed, seconds)
    row.near("entropy", result.entropy, oracle(f"lds-{target}")["entropy"], 0.05)
    row.at_most("violation", worst(result.measured.violation), VIOLATION, ".4f")
    row.between("a12 > 0", positive, 0.45, 0.55).note("gap", result.certificate.gap)
    return report(row, result)


def seeds(target: str, number: int) -> Iterator[Row]:
    """Many seeds in one process, which compiles once."""
    from tests.benchmarks.fits import fit

    dsn = DSN(circuit, TARGETS[target])
    for seed in range(number):
        yield check(f"{target} targets", target, seed, *fit(dsn, seed))


def cold(target: str, seed: int, commit: str = "") -> Iterator[Row]:
    """One seed in a process of its own, up to the printed summary; the process's seconds."""
    from tests.benchmarks.fits import fit

    began = time.perf_counter()
    result, seconds = fit(DSN(circuit, TARGETS[target]), seed)
    result.print_summary()
    print(f"{time.perf_counter() - began:.1f} s", flush=True)
    row = Row(f"{commit} {target} targets, cold process".strip(), seed)
    yield row.note("entropy", result.entropy).note("fit", seconds, ".1f")
