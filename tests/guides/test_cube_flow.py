"""The flow of the unit cube: an exact density, draws with gradients, and the prior at the start."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose, assert_array_equal

from numpyro_dsn.guides import CubeFlow
from numpyro_dsn.guides.cube import default_flow

pytestmark = pytest.mark.usefixtures("quick_compilation")

FIXED = "auto_loc", "auto_scale"

small = partial(default_flow, num_bins=6, hidden_dim=8)


# Compiled once for all tests of the same flow and shapes.
push = jax.jit(CubeFlow.push, static_argnums=0)
log_prob = jax.jit(CubeFlow.log_prob, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def log_prob_and_gradients(flow, params, flat):
    gradients = jax.grad(lambda *args: flow.log_prob(*args).sum(), (0, 1))(params, flat)
    return flow.log_prob(params, flat), *gradients


def random_params(flow, rng, weight=0.2, loc=None, scale=None):
    """Parameters of a flow that is far from the identity."""
    loc = np.zeros(flow.dim) if loc is None else loc
    scale = np.ones(flow.dim) if scale is None else scale
    shapes = jax.eval_shape(flow.init, jax.random.key(0), *map(jnp.asarray, (loc, scale)))
    params = {"auto_loc": loc, "auto_scale": scale}
    for name, shape in shapes.items():
        if name not in FIXED:
            inputs = shape.shape[1] if "weight" in name and "2" not in name else 0
            deviation = np.hypot(weight, max(inputs, 1) ** -0.5 * (inputs > 0))
            params[name] = rng.normal(0, deviation, shape.shape)
    return jax.tree.map(jnp.asarray, params)


def on_cube(flow, params, v):
    """Density of the sigmoids of draws, with respect to volume on the cube."""
    u = jax.scipy.special.logit(v)
    return jnp.exp(flow.log_prob(params, u) - (jnp.log(v) + jnp.log1p(-v)).sum(-1))


def log_logistic(noise):
    return (jax.nn.log_sigmoid(noise) + jax.nn.log_sigmoid(-noise)).sum(-1)


def numeric_log_det(move, points, step=1e-6):
    """Log |det| of the Jacobian at each point, by differences; compiles nothing but ``move``."""
    number, dim = points.shape
    steps = step * np.concatenate([np.eye(dim), -np.eye(dim)])
    near = np.asarray(points)[:, None] + steps
    moved = np.asarray(move(jnp.asarray(near.reshape(-1, dim))))
    ahead, behind = np.split(moved.reshape(number, 2 * dim, dim), 2, axis=1)
    return np.linalg.slogdet((ahead - behind) / (2 * step))[1]


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8])
def test_the_density_is_that_of_the_jacobian(dim, x64, rng):
    flow = small(dim)
    params = random_params(flow, rng, loc=rng.normal(size=dim), scale=rng.lognormal(size=dim))
    noise = jnp.asarray(rng.logistic(size=(5, dim)))
    flat, log_det = push(flow, params, noise)
    exact = numeric_log_det(lambda noise: push(flow, params, noise)[0], noise)
    start = params["auto_loc"][None] + params["auto_scale"][None] * noise
    assert np.abs(flat - start).max() > 0.1
    assert_allclose(log_det, exact, atol=1e-5)
    assert_allclose(log_prob(flow, params, flat), log_logistic(noise) - log_det, atol=1e-7)


def test_pull_is_the_inverse_of_push_and_normal_noise_has_the_same_density(x64, rng):
    flow = small(3)
    params = random_params(flow, rng)
    normal = jnp.asarray(rng.normal(size=(20, 3)))

    @jax.jit
    def evaluate(noise):
        flat, log_det = flow.from_normal(params, noise)
        return flat, log_det, *flow.pull(params, flat)

    flat, log_det, logistic, log_det_back = evaluate(normal)
    assert_allclose(jax.nn.sigmoid(logistic), norm.cdf(normal), atol=1e-9)
    same, log_det_push = push(flow, params, logistic)
    assert_allclose(same, flat, atol=1e-7)
    assert_allclose(log_det_back, -log_det_push, atol=1e-7)
    assert_allclose(
        norm.logpdf(normal).sum(-1) - log_det, log_logistic(logistic) + log_det_back, atol=1e-7
    )
    # Both tails keep their digits.
    far = jnp.asarray([[-9.0, 0.0, 5.0]])
    assert np.all(np.isfinite(evaluate(far)[1]))


@pytest.mark.parametrize("dim", [2, 5])
def test_densities_of_draws_keep_their_digits_in_single_precision(dim, rng, rng_key):
    flow = small(dim)
    params = random_params(flow, rng, weight=0.1)
    draw_key, one_key = jax.random.split(rng_key)
    keys = jax.random.split(one_key, 2000)
    flat, log_q = jax.jit(jax.vmap(flow.draw, (0, None)))(keys, params)
    again = log_prob(flow, params, flat)
    assert flat.dtype == jnp.float32
    error = np.abs(np.asarray(log_q - again))
    assert np.median(error) < 1e-4
    assert error.max() < 0.1
    # One draw at a time has the distribution of many at once.
    many = np.asarray(jax.jit(flow.sample, static_argnums=2)(draw_key, params, 2000))
    error = np.sqrt((many.var(0) + np.asarray(flat).var(0)) / 2000)
    assert np.all(np.abs(many.mean(0) - np.asarray(flat).mean(0)) < 4 * error)


@pytest.mark.parametrize("dim", [1, 6])
def test_the_start_is_the_logistic_distribution(dim, rng):
    flow = default_flow(dim)
    params = flow.init(jax.random.key(0), jnp.zeros(dim), jnp.ones(dim))
    flat = jnp.asarray(rng.uniform(-12, 12, (100, dim)), jnp.float32)
    assert_allclose(log_prob(flow, params, flat), log_logistic(flat), rtol=1e-4, atol=1e-4)


def test_init_can_be_compiled_and_its_networks_are_random(rng_key):
    flow = small(3)
    init = jax.jit(flow.init)
    one, other = (init(key, jnp.zeros(3), jnp.ones(3)) for key in jax.random.split(rng_key))
    assert jnp.all(one["auto_weight0"] != other["auto_weight0"])
    assert_array_equal(one["auto_weight2"], 0.0)
    assert flow.constrain(one) is one


GRIDS = {1: 20_001, 2: 501}


@pytest.mark.parametrize("dim", GRIDS)
def test_the_density_is_normalized_and_that_of_the_draws(dim, x64, rng, rng_key):
    flow = small(dim)
    params = random_params(flow, rng, 0.1, loc=np.full(dim, 0.3), scale=np.full(dim, 1.2))
    middle = (np.arange(GRIDS[dim]) + 0.5) / GRIDS[dim]
    v = np.stack(np.meshgrid(*[middle] * dim), axis=-1).reshape(-1, dim)
    density = np.asarray(jax.jit(partial(on_cube, flow))(params, v))
    assert_allclose(density.mean(), 1.0, atol=3e-3)
    # Not that of the start.
    assert np.abs(density - 1).mean() > 0.1
    draws = jax.nn.sigmoid(jax.jit(flow.sample, static_argnums=2)(rng_key, params, 20_000))
    draws = np.asarray(draws)
    assert np.all((draws > 0) & (draws < 1))
    for power in (1, 2, 3):
        expected = np.mean(density[:, None] * v**power, axis=0)
        error = (draws**power).std(0) / np.sqrt(len(draws))
        assert np.all(np.abs((draws**power).mean(0) - expected) < 4 * error + 3e-3)


def test_flows_of_equal_fields_share_one_compilation():
    traced = []

    @partial(jax.jit, static_argnames="flow")
    def density(flow, params, flat):
        traced.append(flow)
        return flow.log_prob(params, flat)

    one, other = small(2), small(2)
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    params = one.init(jax.random.key(0), jnp.zeros(2), jnp.ones(2))
    for flow in (one, other):
        density(flow, params, jnp.zeros((3, 2)))
    assert len(traced) == 1
    density(replace(one, edge=1e-6), params, jnp.zeros((3, 2)))
    assert len(traced) == 2


@pytest.mark.parametrize("weight", [0.2, 1.0])
@pytest.mark.parametrize("distance", [12.0, 100.0])
def test_density_and_gradients_are_finite_far_out(distance, weight, rng):
    flow = small(3)
    signs = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3)
    flat = jnp.asarray(distance * signs, jnp.float32)
    results = log_prob_and_gradients(flow, random_params(flow, rng, weight), flat)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_the_chart_is_not_trained(rng):
    flow = small(3)
    flat = jnp.asarray(rng.logistic(size=(27, 3)))
    _, gradient, _ = log_prob_and_gradients(flow, random_params(flow, rng), flat)
    for name, leaf in gradient.items():
        assert np.any(np.asarray(leaf) != 0) == (name not in FIXED)


def test_gradients_of_density_and_draws_are_exact(x64, rng):
    flow = small(3)
    params = random_params(flow, rng)
    flat, weight = (jnp.asarray(rng.logistic(size=(20, 3))) for _ in range(2))
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    @jax.jit
    @jax.value_and_grad
    def along(step, weights):
        moved = {
            name: value if name in FIXED else value + step * direction[name]
            for name, value in params.items()
        }
        draws, log_det = flow.push(moved, flat)
        density = flow.log_prob(moved, flat + step * weight)
        return jnp.dot(weights, jnp.stack([density.sum(), log_det.sum(), (weight * draws).sum()]))

    for weights in np.eye(3):
        (ahead, _), (behind, _) = (along(step, weights) for step in (1e-6, -1e-6))
        numeric = (ahead - behind) / 2e-6
        assert abs(numeric) > 1e-2
        assert_allclose(along(0.0, weights)[1], numeric, rtol=1e-5)


@pytest.mark.parametrize(
    ("dim", "num_layers", "num_transformed"),
    [(1, 2, 1), (2, 4, 1), (3, 6, 1), (4, 8, 1), (5, 6, 2), (10, 8, 3)],
)
def test_default_couplings_move_a_quarter_twice(dim, num_layers, num_transformed):
    assert default_flow(dim) == CubeFlow(dim, num_layers, num_transformed)


def test_the_number_of_coordinates_that_move_is_checked():
    with pytest.raises(ValueError, match="must be at least 1, but is 0"):
        default_flow(3, num_transformed=0)
    with pytest.raises(ValueError, match="is 3, of 3 coordinates; one must stay"):
        CubeFlow(3, 2, 3)
