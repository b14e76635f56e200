"""The README's example, as it is pasted, and another circuit of the same size after it."""

import time
from collections.abc import Iterator

import jax
import numpyro
import numpyro.distributions as dist

from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import Moments
from tests.benchmarks.rows import Row


def circuit() -> None:
    weight = numpyro.sample("weight", dist.Uniform(0.0, 5.0))
    drive = numpyro.sample("drive", dist.Uniform(0.0, 10.0))  # Hz
    numpyro.deterministic("rate", drive / (1.0 + weight))  # Hz


def fires_at_2_hz(sites) -> None:
    behavior("firing", sites["rate"], Moments(mean=2.0, std=0.2))


def pair() -> None:
    excitation = numpyro.sample("excitation", dist.Uniform(0.0, 10.0))
    inhibition = numpyro.sample("inhibition", dist.Uniform(0.0, 10.0))
    numpyro.deterministic("rate", 10.0 * excitation / (1.0 + inhibition))  # Hz


def fires_at_5_hz(sites) -> None:
    behavior("firing", sites["rate"], Moments(mean=5.0, std=1.0))


def paste(model, statements):
    """Do what the README does, up to ArviZ data, and print it."""
    from tests.benchmarks.fits import fit

    result, _ = fit(DSN(model, statements), 0)
    result.print_summary()
    print(result.to_inference_data(), flush=True)
    return result


def example(name: str, limit: float | None) -> Iterator[Row]:
    """The example in a process of its own; the seconds are those of the process."""
    result = paste(circuit, fires_at_2_hz)
    row = Row(name, 0)
    if limit is not None:
        row.within_seconds(limit)
    yield row.note("entropy", result.entropy).note("", result.status.name.lower())


def another() -> Iterator[Row]:
    """Another circuit of two latents later in the process: seconds, and what is compiled."""
    from tests.benchmarks.compilations import compilations, of_training

    paste(circuit, fires_at_2_hz)
    with compilations() as counter:
        began = time.perf_counter()
        result = paste(pair, fires_at_5_hz)
        seconds = time.perf_counter() - began
    training = of_training(counter)
    print(counter)
    row = Row("another circuit of two latents, same process", 0, seconds).within_seconds(5)
    row.at_most("compilations of training", sum(training.values()), 0, "g")
    row.note("of all", sum(counter.values()), "g").note("", result.status.name.lower())
    yield row
    jax.clear_caches()
