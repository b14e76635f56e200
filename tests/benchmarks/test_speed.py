"""What a fit costs: compilation, steps, and the steps to tolerance, of growing dimension."""

import resource
import time
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from models import lds
from numpyro_dsn import DSN, behavior
from numpyro_dsn.constraints import Moments

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


class Problem(NamedTuple):
    """A model, a behavior, and the largest number of epochs to spend on it."""

    model: object
    statements: object
    num_epochs: int


def isotropic(dim, num_epochs):
    """An isotropic normal distribution of variance 1/2 in every dimension."""

    def model():
        numpyro.sample("z", dist.Uniform(-6.0 * np.ones(dim), 6.0).to_event(1))

    def statements(sites):
        behavior("square", (sites["z"] ** 2).sum(), Moments(dim / 2))

    return Problem(model, statements, num_epochs)


PROBLEMS = {
    "linear system": Problem(lds.circuit, lds.paper_band, 30),
    "isotropic, 10": isotropic(10, 20),
    "isotropic, 100": isotropic(100, 20),
    "isotropic, 1000": isotropic(1000, 20),
}


@contextmanager
def seconds_of_compilation():
    """Yield a list that collects what XLA spends on every program, in seconds; tracing is aside."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", PROBLEMS)
def test_speed(name):
    problem = PROBLEMS[name]
    dsn = DSN(problem.model, problem.statements)
    with seconds_of_compilation() as compilation:
        state = dsn.update(dsn.init(jax.random.key(0)))
    start = time.perf_counter()
    state = dsn.update(state)
    jax.block_until_ready(state.chains.params)
    epoch = time.perf_counter() - start
    result = dsn.run(None, num_epochs=problem.num_epochs - 2, init_state=state, progress_bar=False)
    converged = np.asarray(result.history.epochs.converged).ravel()
    reached = f"not in {(converged.size - 1) * dsn.num_steps}"
    if converged.any():
        reached = f"{converged.argmax() * dsn.num_steps}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    measured = result.measured
    print(
        f"\n{name}: {epoch / dsn.num_steps * 1000:.1f} ms a step, steps to tolerance: {reached}, "
        f"compilation {sum(compilation):.0f} s, peak memory so far {memory:.1f} GiB, "
        f"{result.status.name}, gap {measured.gap:.3f} nats, "
        f"violation {np.abs(measured.violation).max():.3f} sd"
    )
