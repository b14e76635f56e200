"""Problems with exact answers, through the public API: entropy, moments and multipliers."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
from closed_forms import CLOSED_FORMS
from numpyro.infer.autoguide import AutoMultivariateNormal

from numpyro_dsn import DSN, PenaltyMethod, Status
from numpyro_dsn.guides import AutoRealNVP

NUM_STEPS = 600


class Setting(NamedTuple):
    """What the penalty method needs to know about a problem.

    The penalty does not grow here: at the exact multipliers a constant one is enough, and the
    published growth would make the multipliers random. The strict level makes the first epoch
    that passes an accurate one.
    """

    penalty_init: float
    num_epochs: int
    num_particles: int = 1000
    step_size: float = 5e-3
    guide: Any = None


def small_flow(model, init_variance=None):
    return AutoRealNVP(model, num_layers=4, hidden_dims=(20,), init_variance=init_variance)


SETTINGS = {
    "gaussian": Setting(
        2.0, 12, 4000, 2e-2, lambda model: AutoMultivariateNormal(model, init_scale=0.5)
    ),
    "uniform": Setting(1.0, 2),
    "exponential": Setting(0.3, 18),
    "truncated exponential": Setting(30.0, 8),
    "dirichlet": Setting(10.0, 10, 4000, 3e-3),
    "laplace": Setting(5.0, 16),
    "double well": Setting(10.0, 18, guide=lambda model: small_flow(model, init_variance=1.0)),
}


def fit_with_penalty(name):
    problem, setting = CLOSED_FORMS[name], SETTINGS[name]
    dsn = DSN(
        problem.model,
        problem.behavior,
        guide=(setting.guide or small_flow)(problem.model),
        optim=optax.adam(optax.cosine_decay_schedule(setting.step_size, NUM_STEPS)),
        method=PenaltyMethod(setting.penalty_init, growth_factor=1.0, significance=0.9),
        num_particles=setting.num_particles,
        num_steps=NUM_STEPS,
    )
    return dsn.run(jax.random.key(0), num_epochs=setting.num_epochs, progress_bar=False)


def require_exact(result, problem, entropy_tolerance):
    assert abs(result.entropy - problem.entropy) < entropy_tolerance
    num_samples = 1000
    values = result.sample(jax.random.key(1), num_samples)["f"]
    statistics = np.asarray(jax.vmap(problem.constraint.statistics)(values))
    error = statistics.std(0) / np.sqrt(num_samples)
    lower, upper = map(np.asarray, problem.constraint.bounds())
    distance = statistics.mean(0) - np.clip(statistics.mean(0), lower, upper)
    assert np.all(np.abs(distance) <= 3 * error)


def require_multipliers(result, problem, relative):
    """Compare in units that give zeros a meaning: nats per standard deviation of T."""
    scale = np.asarray(result.measured.scale)
    exact = problem.natural_parameters * scale
    found = -np.array(list(result.multipliers.values())) * scale
    largest = max(np.abs(exact).max(), 1e-6)
    assert np.abs(found - exact).max() <= relative * largest


@pytest.mark.parametrize("name", ["truncated exponential"])
def test_penalty_method_is_exact(name):
    result = fit_with_penalty(name)
    assert result.status is Status.CONVERGED
    require_exact(result, CLOSED_FORMS[name], 0.03)
    require_multipliers(result, CLOSED_FORMS[name], 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gaussian", "uniform", "exponential", "laplace", "dirichlet", "double well"]
)
def test_penalty_method_is_exact_slowly(name):
    result = fit_with_penalty(name)
    assert result.status is Status.CONVERGED
    require_exact(result, CLOSED_FORMS[name], 0.03)
    require_multipliers(result, CLOSED_FORMS[name], 0.05)
