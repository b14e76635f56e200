"""The penalty method by hand, and on a quadratic problem whose multipliers are known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from numpyro_dsn import PenaltyMethod
from numpyro_dsn.solver.penalty import PenaltyState, growth_p_value


def normal_sample(seed, size, mean, sd):
    return np.random.default_rng(seed).normal(mean, sd, size)


# two samples, of the new and of the old norms
SAMPLES = {
    "larger": (normal_sample(0, 200, 1.1, 1.0), normal_sample(1, 200, 1.0, 1.0)),
    "much larger": (normal_sample(2, 200, 1.5, 1.0), normal_sample(3, 200, 1.0, 1.0)),
    "equal": (normal_sample(4, 200, 1.0, 1.0), normal_sample(5, 200, 1.0, 1.0)),
    "smaller": (normal_sample(6, 200, 0.8, 1.0), normal_sample(7, 200, 1.0, 1.0)),
    "unequal variances": (normal_sample(8, 50, 1.2, 3.0), normal_sample(9, 200, 1.0, 0.1)),
    "unequal sizes": (normal_sample(10, 5, 1.5, 1.0), normal_sample(11, 300, 1.0, 2.0)),
    "tiny": (1e-9 * normal_sample(12, 200, 1.1, 1.0), 1e-9 * normal_sample(13, 200, 1.0, 1.0)),
    "heavy": (normal_sample(14, 200, 0, 1.0) ** 2, normal_sample(15, 200, 0, 0.9) ** 2),
}


@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
def test_growth_p_value_is_that_of_welch(samples):
    new, old = map(jnp.asarray, samples)
    one_sided = scipy.stats.ttest_ind(*samples, equal_var=False, alternative="greater").pvalue
    expected = one_sided if samples[0].mean() > samples[1].mean() else 1.0
    assert_allclose(growth_p_value(new, old), expected, rtol=2e-4)


def test_growth_p_value_of_samples_without_variance():
    one, two = jnp.full(10, 1.0), jnp.full(10, 2.0)
    assert growth_p_value(two, one) == 0
    assert growth_p_value(one, two) == 1
    assert growth_p_value(one, one) == 1


def state_of(norms, multipliers=(0.0,), penalty=1.0):
    """A state of which only the dual variables matter."""
    return PenaltyState(
        optim_state=None,
        params={},
        multipliers=jnp.array(multipliers),
        penalty=jnp.asarray(penalty),
        norms=jnp.asarray(norms),
        best=None,
        epoch=jnp.zeros((), int),
        rng_key=None,
    )


def share_that_grows(rng_key, new, old, num_keys):
    method = PenaltyMethod(required_decrease=1.0)

    def penalty(key):
        violations = jnp.asarray(new)[:, None]
        return method.update(key, state_of(old), jnp.zeros(1), violations).penalty

    penalties = jax.jit(jax.vmap(penalty))(jax.random.split(rng_key, num_keys))
    assert set(np.unique(penalties)) <= {1.0, 4.0}
    return np.mean(penalties == 4)


def test_the_penalty_never_grows_if_the_violation_fell_as_required(rng_key):
    smaller, larger = np.abs(SAMPLES["larger"][1]), 0.1 + np.abs(SAMPLES["larger"][1])
    assert share_that_grows(rng_key, smaller, larger, 2000) == 0
    assert share_that_grows(rng_key, smaller, smaller, 2000) == 0


def test_the_penalty_always_grows_if_the_violation_certainly_did_not_fall(rng_key):
    sample = np.abs(SAMPLES["equal"][0])
    assert share_that_grows(rng_key, sample + 5, sample, 2000) == 1


@pytest.mark.parametrize("shift", [0.02, 0.05, 0.1])
def test_in_between_the_penalty_grows_with_the_probability_of_the_test(shift, rng_key):
    sample = np.abs(SAMPLES["equal"][0])
    p = scipy.stats.ttest_ind(sample + shift, sample, equal_var=False, alternative="greater").pvalue
    assert 0.02 < p < 0.48
    num_keys = 20_000
    share = share_that_grows(rng_key, sample + shift, sample, num_keys)
    assert abs(share - (1 - p)) < 4 * np.sqrt(p * (1 - p) / num_keys)


@pytest.mark.parametrize("grows", [True, False])
def test_update_by_hand(grows, rng_key):
    method = PenaltyMethod(growth_factor=3.0, required_decrease=0.5)
    # Half of the old norms is 5 to 6: the new ones, of 13 and of 1.3, are surely above or below.
    old = np.linspace(10.0, 12.0, 10)
    violations = (1.0 if grows else 0.1) * np.tile([5.0, -12.0], (10, 1))
    state = state_of(old, multipliers=(1.0, -2.0), penalty=0.5)
    residual = jnp.array([0.4, -0.6])
    updated = method.update(rng_key, state, residual, jnp.asarray(violations))
    # lambda + c R with the c of the epoch that ended, and c * beta after it.
    assert_allclose(updated.multipliers, [1.2, -2.3], rtol=1e-6)
    assert_allclose(updated.penalty, 1.5 if grows else 0.5)
    assert_allclose(updated.norms, np.full(10, 13.0 if grows else 1.3), rtol=1e-6)
    assert updated.params is state.params  # all else is as it was


def test_required_decrease_is_a_ratio_of_norms(rng_key):
    norms = np.linspace(1.0, 1.1, 50)
    for required_decrease, expected in ((0.4, True), (0.6, False)):
        method = PenaltyMethod(required_decrease=required_decrease)
        state = state_of(norms)
        updated = method.update(rng_key, state, jnp.zeros(1), jnp.asarray(0.5 * norms)[:, None])
        assert bool(updated.penalty > state.penalty) == expected


def test_p_values_by_hand():
    # Ten batches: the mean of the first statistic is 1, ..., 10.
    means = jnp.stack([jnp.arange(1.0, 11.0)] * 7, axis=1)
    lower = jnp.array([5.5, 8.5, 2.5, 0.0, 9.5, -jnp.inf, 4.5])
    upper = jnp.array([5.5, 8.5, 2.5, 0.0, jnp.inf, 1.5, 6.5])
    #  Above and below: 5 and 5, 2 and 8, 8 and 2, 10 and 0, 1 and 10, 10 and 1, 6 and 6.
    expected = [1.0, 0.4, 0.4, 0.0, 0.2, 0.2, 1.0]
    assert_allclose(PenaltyMethod().p_values(means, lower, upper), expected, rtol=1e-6)


def test_p_values_are_symmetric():
    rng = np.random.default_rng(0)
    means, targets = jnp.asarray(rng.normal(size=(200, 5))), jnp.asarray(rng.normal(0, 0.5, 5))
    p_values = PenaltyMethod().p_values
    assert_array_equal(p_values(means, targets, targets), p_values(-means, -targets, -targets))
    upper = targets + 0.3
    assert_array_equal(p_values(means, targets, upper), p_values(-means, -upper, -targets))


def test_a_statistic_that_is_nan_is_a_violation():
    means, bound = jnp.full((10, 1), jnp.nan), jnp.zeros(1)
    for lower, upper in ((bound, bound), (bound, bound + jnp.inf), (bound - jnp.inf, bound)):
        p_values = PenaltyMethod().p_values(means, lower, upper)
        assert_array_equal(p_values, [0.0])
        assert not PenaltyMethod().has_converged(p_values)


@pytest.mark.parametrize(
    ("p_values", "converged"),
    [
        ([0.06], True),
        ([0.04], False),
        ([0.02, 0.02, 0.02], True),  # 0.05 / 3 = 0.0167
        ([0.015, 1.0, 1.0], False),
        ([0.0] * 10, False),
    ],
)
def test_convergence_with_the_correction_of_bonferroni(p_values, converged):
    assert bool(PenaltyMethod().has_converged(jnp.array(p_values))) == converged


def test_significance_is_a_setting():
    p_values = jnp.array([0.04, 0.5])
    assert PenaltyMethod(significance=0.05).has_converged(p_values)
    assert not PenaltyMethod(significance=0.1).has_converged(p_values)


def test_the_method_finds_the_multipliers_of_a_quadratic_problem(rng_key, x64):
    # Minimize |x - a|^2 / 2 under A x = b: x = a - A^T lambda with A A^T lambda = A a - b.
    rng = np.random.default_rng(3)
    a, matrix, b = rng.normal(size=4), rng.normal(size=(2, 4)), rng.normal(size=2)
    exact = np.linalg.solve(matrix @ matrix.T, matrix @ a - b)
    method = PenaltyMethod(penalty_init=0.1)
    noise = 1e-3 * rng.normal(size=(method.num_batches, 2))

    def minimum(multipliers, penalty):
        hessian = np.eye(4) + penalty * matrix.T @ matrix
        return np.linalg.solve(hessian, a - matrix.T @ multipliers + penalty * matrix.T @ b)

    norms = np.linalg.norm(matrix @ a - b + noise, axis=-1)
    state = state_of(norms, multipliers=(0.0, 0.0), penalty=method.penalty_init)
    penalties, errors = [float(state.penalty)], [np.linalg.norm(exact)]
    for epoch in range(12):
        x = minimum(np.asarray(state.multipliers), float(state.penalty))
        residual = matrix @ x - b
        key = jax.random.fold_in(rng_key, epoch)
        state = method.update(key, state, jnp.asarray(residual), jnp.asarray(residual + noise))
        penalties.append(float(state.penalty))
        errors.append(np.linalg.norm(state.multipliers - exact))
    # The error of the multipliers falls by 1 / (1 + c s) where s are the eigenvalues of A A^T.
    smallest = np.linalg.eigvalsh(matrix @ matrix.T)[0]
    for penalty, before, after in zip(penalties, errors[:-1], errors[1:], strict=False):
        assert after <= before / (1 + penalty * smallest) * (1 + 1e-9) + 1e-9
    assert_allclose(state.multipliers, exact, atol=1e-6)
    # The penalty grew only until the violation fell by itself as required.
    assert penalties[1] > penalties[0]
    zero = jnp.zeros(2)
    assert method.has_converged(method.p_values(jnp.asarray(residual + noise), zero, zero))


def test_a_flow_whose_draws_have_no_gradient_is_refused():
    PenaltyMethod().require(SimpleNamespace(has_rsample=True), {})
    with pytest.raises(ValueError, match=r"no gradient.*DualNewton"):
        PenaltyMethod().require(SimpleNamespace(has_rsample=False), {})


def test_the_published_method_runs_all_its_epochs():
    assert not PenaltyMethod().is_done(state_of([1.0]))
