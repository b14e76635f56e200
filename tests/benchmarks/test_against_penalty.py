"""Steps and seconds to a gap of 0.05 nats and violations of 0.02 sd, against the penalty method."""

import time

import jax
import numpy as np
import pytest
from closed_forms import CLOSED_FORMS

from models import lds
from numpyro_dsn import DSN, DualNewton, PenaltyMethod
from numpyro_dsn.guides import AutoRealNVP

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

NUM_SEEDS = 5
MAX_EPOCHS = {"DualNewton": 30, "PenaltyMethod": 20}
PROBLEMS = {
    "linear system": (lds.circuit, lds.paper_band, 1e-2),
    "laplace": (CLOSED_FORMS["laplace"].model, CLOSED_FORMS["laplace"].behavior, 1.0),
}


def is_there(result):
    """Whether the last epoch is close enough; the penalty method's gap needs its certificate."""
    if np.abs(result.measured.violation).max() > 0.02:
        return False
    return result.certificate.gap <= 0.05


@pytest.mark.parametrize("name", PROBLEMS)
def test_steps_to_tolerance(name):
    model, statements, penalty = PROBLEMS[name]
    methods = {
        "DualNewton": (DualNewton(gap_tolerance=-np.inf), 1000),
        "PenaltyMethod": (PenaltyMethod(penalty), 1000),
    }
    for method, (multipliers, num_steps) in methods.items():
        guide = AutoRealNVP(model)
        dsn = DSN(model, statements, guide, multipliers=multipliers, num_steps=num_steps)
        dsn.run(jax.random.key(99), num_epochs=1, progress_bar=False)  # compiles
        for seed in range(NUM_SEEDS):
            state, seconds = dsn.init(jax.random.key(seed)), 0.0
            for epoch in range(1, MAX_EPOCHS[method] + 1):
                start = time.perf_counter()
                result = dsn.run(None, num_epochs=1, init_state=state, progress_bar=False)
                seconds += time.perf_counter() - start
                state = result.state
                if is_there(result):
                    break
            reached = "" if is_there(result) else "not reached in "
            measured = result.measured
            print(
                f"\n{name}, {method}, seed {seed}: {reached}{epoch * num_steps} steps, "
                f"{seconds:.0f} s, entropy {measured.entropy:.3f}, "
                f"violation {np.abs(measured.violation).max():.3f} sd"
            )
