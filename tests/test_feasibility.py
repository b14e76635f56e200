"""Which targets no distribution over the draws can meet, by hand and through a run."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_dsn import DSN, DualNewton, Status, behavior
from numpyro_dsn.constraints import AtLeast, Moments
from numpyro_dsn.feasibility import approaches, describe, separating_direction
from numpyro_dsn.guides import AutoRealNVP

pytestmark = pytest.mark.usefixtures("quick_compilation")

SQUARE = np.random.default_rng(0).uniform(-1, 1, (2000, 2))


@pytest.mark.parametrize("target", [[0.0, 0.0], [0.9, -0.9], [0.99, 0.0]])
def test_a_target_inside_is_feasible(target):
    assert separating_direction(SQUARE, np.array(target), np.array(target)) is None


@pytest.mark.parametrize("target", [[1.01, 0.0], [0.0, -3.0], [1.2, 1.2]])
def test_a_target_outside_is_separated(target):
    target = np.array(target)
    direction = separating_direction(SQUARE, target, target)
    assert np.all(SQUARE @ direction > target @ direction)


def test_a_square_below_its_mean_is_infeasible():
    """E[f^2] >= E[f]^2 for every distribution, although each target alone can be met."""
    f = SQUARE[:, 0]
    statistics = np.stack([f, f**2], 1)
    target = np.array([0.5, 0.2])
    direction = separating_direction(statistics, target, target)
    assert np.all(statistics @ direction > target @ direction)
    assert describe(direction, ["mean", "square"]) == "mean and square cannot be met together"
    feasible = np.array([0.5, 0.3])
    assert separating_direction(statistics, feasible, feasible) is None


def test_inequalities_leave_room():
    lower = np.array([0.5, -np.inf])
    assert separating_direction(SQUARE, lower, np.full(2, np.inf)) is None
    lower = np.array([1.5, -np.inf])
    direction = separating_direction(SQUARE, lower, np.full(2, np.inf))
    np.testing.assert_allclose(direction, [-1, 0], atol=1e-12)
    assert describe(direction, ["f", "g"]) == "f is below its target in all of them"


@pytest.mark.parametrize(
    ("mean", "tail", "expected"),
    [
        (8.0, "normal", True),
        (9.9, "normal", False),  # a hundredth of the way to zero
        (11.0, "normal", False),  # away from it
        (8.0, "exponential", False),  # nothing is below 7
    ],
)
def test_a_fit_on_its_way_is_not_infeasible(mean, tail, expected, rng):
    """Its mean was 10, zero is asked, and all draws are above it."""
    draws = {"normal": rng.normal(size=1000), "exponential": rng.exponential(size=1000) - 1}[tail]
    zero = np.zeros(1)
    last = (mean + draws)[:, None]
    assert approaches(np.array([10.0]), last, np.ones(1), zero, zero) is expected


def test_an_inequality_is_approached_too(rng):
    """The second statistic has no bounds, and no part in the direction."""
    last = np.stack([-3 + rng.normal(size=1000), np.zeros(1000)], 1)
    lower, upper = np.array([0.0, -np.inf]), np.full(2, np.inf)
    assert approaches(np.array([-4.0, 0.0]), last, np.array([-1.0, 0.0]), lower, upper)


@pytest.mark.filterwarnings("ignore:Not enough tail samples")
def test_a_far_target_is_not_called_infeasible_on_the_way():
    """Six standard deviations of the prior away; the trust region takes several epochs."""

    def many():
        numpyro.sample("z", dist.Uniform(-np.ones(60), 1.0).to_event(1))

    dsn = DSN(
        many,
        lambda sites: behavior("f", jnp.sum(sites["z"] ** 2), Moments(5.0)),
        AutoRealNVP(many, num_layers=0),
        multipliers=DualNewton(
            num_first=2000, max_first=2000, num_draws=2000, num_flows=3, min_ess=100.0
        ),
        num_steps=100,
    )
    with pytest.warns(UserWarning, match="not converged"):
        result = dsn.run(jax.random.key(0), num_epochs=1, progress_bar=False)
    assert np.asarray(result.measured.mean)[0] > 6
    assert result.status is Status.NOT_CONVERGED
    assert not result.certificate.verdict.startswith("Infeasible")


def model():
    numpyro.sample("z", dist.Uniform(0.0, 1.0))


def small_dsn(constraint, statistic):
    return DSN(
        model,
        lambda sites: behavior("f", statistic(sites["z"]), constraint),
        AutoRealNVP(model),
        multipliers=DualNewton(
            num_first=2000, max_first=20_000, num_draws=500, num_flows=3, min_ess=100.0
        ),
        num_particles=50,
        num_steps=50,
    )


def run(constraint, statistic):
    dsn = small_dsn(constraint, statistic)
    return dsn.run(jax.random.key(0), num_epochs=4, progress_bar=False)


CASES = {
    "mean above the range": (Moments(1.5), lambda z: z, r"mean\[f\] is below"),
    "bound above the range": (AtLeast(1.5), lambda z: z, r"mean\[f\] is below"),
    "a variance of zero": (Moments(0.0), lambda z: (z - 0.5) ** 2, r"mean\[f\] is above"),
    "less than the least variance": (
        Moments(jnp.array([0.5, 0.2])),
        lambda z: jnp.stack([z, z**2]),
        "cannot be met together",
    ),
}


@pytest.mark.filterwarnings("ignore:Not enough tail samples")
@pytest.mark.parametrize("name", CASES)
def test_an_infeasible_target_ends_as_such(name):
    constraint, statistic, text = CASES[name]
    with pytest.warns(UserWarning, match=text):
        result = run(constraint, statistic)
    assert result.status is Status.INFEASIBLE
    assert result.certificate.verdict.startswith("Infeasible")
    assert not result.history.epochs.converged.any()


def test_a_fit_that_diverged_says_what_cannot_be_met():
    """Its parameters are NaN, but the circuits that it simulated before tell why."""
    dsn = small_dsn(Moments(1.5), lambda z: z)
    state = dsn.update(dsn.init(jax.random.key(0)))
    epochs = state.history.epochs._replace(
        entropy=np.full_like(state.history.epochs.entropy, np.nan)
    )
    state = state._replace(history=state.history._replace(epochs=epochs))
    with pytest.warns(UserWarning, match=r"mean\[f\] is below"):
        result = dsn.run(jax.random.key(0), init_state=state, progress_bar=False)
    assert result.status is Status.INFEASIBLE
