"""Flow guides: every layer is a bijection with an exact density, and the guide starts right."""

import copy
import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.util import unconstrain_fn

from numpyro_dsn import behavior, simulator
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP, constrain, log_prob, unconstrain
from numpyro_dsn.guides.real_nvp import split
from numpyro_dsn.guides.transforms import (
    MAX_LOG_SCALE,
    MIN_SLOPE,
    SPLINE_RANGE,
    AffineCoupling,
    ElementwiseAffine,
    MonotoneSpline,
)
from numpyro_dsn.objective import latents_and_log_density

# --- Layers -------------------------------------------------------------------------------------


def coupling(rng, dim, weight=1.0):
    conditioner, transformed = split(0, dim)
    widths = (len(conditioner), 7, 7, 2 * len(transformed))
    layers = [
        (
            jnp.asarray(rng.normal(0, weight / np.sqrt(num_in), (num_in, num_out))),
            jnp.asarray(rng.normal(0, weight, num_out)),
        )
        for num_in, num_out in zip(widths[:-1], widths[1:], strict=True)
    ]
    return AffineCoupling(conditioner, transformed, layers)


def spline(rng, dim, num_bins=8, weight=1.0):
    heights, slopes = (
        rng.normal(0, weight, (dim, num_bins)),
        rng.normal(0, weight, (dim, num_bins + 1)),
    )
    return MonotoneSpline(jnp.asarray(heights), jnp.asarray(slopes))


def affine(rng, dim):
    return ElementwiseAffine(
        jnp.asarray(rng.normal(size=dim)), jnp.asarray(rng.lognormal(size=dim))
    )


LAYERS = {
    "coupling-2": (coupling, 2),
    "coupling-5": (coupling, 5),
    "spline-1": (spline, 1),
    "spline-2": (spline, 2),
    "spline-5": (spline, 5),
    "affine-1": (affine, 1),
    "affine-2": (affine, 2),
    "affine-5": (affine, 5),
}


@pytest.fixture
def x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def epsilon():
    return float(jnp.finfo(jnp.zeros(()).dtype).eps)


@pytest.fixture
def rng(rng_key):
    """The same for NumPy, whose draws need no compilation."""
    return np.random.default_rng(np.asarray(jax.random.key_data(rng_key)))


def quick_jit(function):
    """Compile for a single call: most of the time of these tests would be XLA's optimization."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@quick_jit
def apply(layer, x):
    """Everything a layer can do at x, and the Jacobian by automatic differentiation."""
    y, log_det = layer.call_with_intermediates(x)
    return {
        "y": y,
        "call": layer(x),
        "inverse": layer.inv(y),
        "log_det": log_det,
        "log_det again": layer.log_abs_det_jacobian(x, y),
        "log_det given": layer.log_abs_det_jacobian(x, y, log_det),
        "jacobian": jax.vmap(jax.jacfwd(layer))(x.reshape(-1, x.shape[-1])),
    }


def check_law(layer, x, tolerance):
    # A batch has one axis more than the parameters; under `vmap`, as in training, it has not.
    with jax.numpy_rank_promotion("allow"):
        result = apply(layer, x)
    assert result["y"].shape == x.shape
    assert result["log_det"].shape == x.shape[:-1]
    assert_allclose(result["inverse"], x, rtol=tolerance, atol=tolerance)
    sign, exact = np.linalg.slogdet(result["jacobian"])
    assert_array_equal(np.abs(sign), 1)
    assert_allclose(result["log_det"], exact.reshape(x.shape[:-1]), rtol=tolerance, atol=tolerance)
    assert_array_equal(result["call"], result["y"])
    assert_array_equal(result["log_det given"], result["log_det"])
    assert_allclose(result["log_det again"], result["log_det"], rtol=tolerance, atol=tolerance)
    return result


@pytest.mark.parametrize("batch_shape", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_an_inverse_and_the_log_det_of_its_jacobian(name, batch_shape, rng):
    constructor, dim = LAYERS[name]
    x = jnp.asarray(rng.normal(0, 2, (*batch_shape, dim)))
    check_law(constructor(rng, dim), x, 500 * epsilon())


@pytest.mark.parametrize("name", ["coupling-5", "spline-5", "affine-5"])
def test_a_layer_is_exact_in_double_precision(name, rng, x64):
    constructor, dim = LAYERS[name]
    result = check_law(constructor(rng, dim), jnp.asarray(rng.normal(0, 2, (3, dim))), 1e-9)
    assert result["y"].dtype == jnp.float64


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_finite_far_out(name, rng):
    constructor, dim = LAYERS[name]
    layer = constructor(rng, dim)
    corners = jnp.stack([jnp.full(dim, 1e3), jnp.full(dim, -1e3), jnp.linspace(-1e3, 1e3, dim)])

    @quick_jit
    @jax.vmap
    def evaluate(x):
        gradient = jax.grad(lambda layer: sum(map(jnp.sum, layer.call_with_intermediates(x))))
        y, log_det = layer.call_with_intermediates(x)
        return y, log_det, layer.inv(y), jax.tree.leaves(gradient(layer))

    y, log_det, back, gradients = evaluate(corners)
    assert jnp.all(jnp.isfinite(y))
    assert jnp.all(jnp.isfinite(log_det))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in gradients)
    # The inverse divides by at least exp(-3) or by a slope of order one.
    assert_allclose(back, corners, rtol=1e3 * epsilon())


@pytest.mark.parametrize("num_bins", [1, 2, 3, 8, 16])
def test_zero_parameters_make_the_spline_the_identity(num_bins):
    layer = MonotoneSpline(jnp.zeros((1, num_bins)), jnp.zeros((1, num_bins + 1)))
    x = jnp.linspace(-10.0, 10.0, 57)[:, None]
    y, log_det = quick_jit(jax.vmap(layer.call_with_intermediates))(x)
    assert_allclose(y, x, atol=50 * epsilon())
    assert_allclose(log_det, 0.0, atol=50 * epsilon())


@pytest.mark.parametrize("dim", [2, 5])
def test_zero_parameters_make_the_coupling_the_identity(dim, rng):
    x = jnp.asarray(rng.normal(size=dim))
    y, log_det = coupling(rng, dim, weight=0.0).call_with_intermediates(x)
    assert_array_equal(y, x)
    assert log_det == 0


def test_the_coupling_moves_one_half_by_a_function_of_the_other(rng):
    x = jnp.array([0.3, -1.2, 0.7, 2.0, -0.4])
    layer = coupling(rng, 5)
    conditioner, transformed = list(layer.conditioner), list(layer.transformed)
    jacobian = jax.jacobian(layer)(x)
    assert sorted(conditioner + transformed) == list(range(5))
    assert_array_equal(jacobian[np.array(conditioner)], np.eye(5)[conditioner])
    within = jacobian[np.ix_(transformed, transformed)]
    assert_array_equal(within, np.diag(np.diag(within)))
    assert jnp.all(jacobian[np.ix_(transformed, conditioner)] != 0)


def test_the_coupling_limits_its_scale(rng):
    layer = coupling(rng, 5, weight=30.0)
    log_scale = layer.call_with_intermediates(jnp.full(5, 100.0))[1]
    assert abs(log_scale) <= MAX_LOG_SCALE * len(layer.transformed)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_a_pair_of_couplings_moves_every_coordinate(dim):
    for pair in range(4):
        moved = [split(index, dim)[1] for index in (2 * pair, 2 * pair + 1)]
        assert sorted(moved[0] + moved[1]) == list(range(dim))
        assert all(set(split(i, dim)[0]).isdisjoint(split(i, dim)[1]) for i in range(4))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_spline_increases_and_its_inverse_is_stable(weight, rng):
    layer = spline(rng, 3, num_bins=16, weight=weight)
    x = jnp.tile(jnp.linspace(-10.0, 10.0, 4001)[:, None], (1, 3))
    y = quick_jit(jax.vmap(layer))(x)
    # Values up to about 60 are rounded, so that flat stretches may show equal neighbors.
    assert jnp.all(jnp.diff(y, axis=0) >= -4 * epsilon() * jnp.abs(y).max())
    back = quick_jit(jax.vmap(lambda y: layer(layer.inv(y))))(y)
    assert_allclose(back, y, rtol=50 * epsilon(), atol=50 * epsilon() * jnp.abs(y).max())


def test_the_spline_is_linear_beyond_its_range_and_smooth_at_its_ends(rng):
    layer = spline(rng, 2)

    @quick_jit
    @jax.vmap
    def evaluate(x):
        return layer(jnp.full(2, x)), jnp.diag(jax.jacobian(layer)(jnp.full(2, x)))

    for side in (-1.0, 1.0):
        distances = jnp.array([-1e-4, 0.0, 1.0, 2.0, 10.0])
        y, slope = evaluate(side * (SPLINE_RANGE + distances))
        end = jax.nn.softplus(layer.slopes[:, 0 if side < 0 else -1])
        assert jnp.all(jnp.abs(end) > MIN_SLOPE)
        # Constant slope outside; inside, a curvature of order one over a distance of 1e-4.
        assert_allclose(slope[1:], np.tile(slope[1], (4, 1)), rtol=50 * epsilon())
        assert_allclose(slope[0], slope[1], atol=1e-2)
        expected = y[1] + side * distances[2:, None] * slope[1][None]
        assert_allclose(y[2:], expected, rtol=1e2 * epsilon())
    assert not np.allclose(evaluate(jnp.array([-5.0, 5.0]))[1], 1.0, atol=0.05)


def test_the_middle_knot_of_the_spline_stays_at_zero(rng):
    assert_allclose(spline(rng, 5)(jnp.zeros(5)), jnp.zeros(5), atol=50 * epsilon())


# --- Guides -------------------------------------------------------------------------------------


def uniform():
    numpyro.sample("z", dist.Uniform(-10.0, 10.0))


def normal():
    numpyro.sample("z", dist.Normal(5.0, 0.1))


def mixed():
    # Not in alphabetical order, and not all of one rank.
    numpyro.sample("rate", dist.LogNormal(0.5, 0.3))
    numpyro.sample("free", dist.Normal(-2.0, 3.0))
    numpyro.sample("box", dist.Uniform(jnp.array([-1.0, 0.0]), jnp.array([1.0, 5.0])).to_event(1))
    numpyro.sample("bounded", dist.TruncatedNormal(0.0, 1.0, low=-1.0))


def simplex():
    numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("free", dist.Normal(-2.0, 3.0))


def plate():
    center = numpyro.sample("center", dist.Normal(1.0, 0.5))
    with numpyro.plate("cell", 3):
        numpyro.sample("gain", dist.LogNormal(center, 0.2))


def matrix():
    numpyro.sample("weights", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))


def cholesky():
    numpyro.sample("factor", dist.LKJCholesky(2, 2.0))


def noisy():
    z = numpyro.sample("z", dist.Normal(1.0, 0.5))
    numpyro.deterministic("twice", 2 * z)
    with simulator():
        numpyro.sample("spikes", dist.Poisson(jnp.exp(z)))
        x = numpyro.sample("x", dist.Normal(z, 0.5))
    behavior("f", x, Moments(0.0))


def improper():
    numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (3,)))


MODELS = {
    "uniform": (uniform, 1),
    "normal": (normal, 1),
    "mixed": (mixed, 5),
    "simplex": (simplex, 3),
    "plate": (plate, 4),
    "matrix": (matrix, 6),
    "cholesky": (cholesky, 1),
    "noisy": (noisy, 1),
    "improper": (improper, 3),
}
PROPER = [name for name in MODELS if name != "improper"]
NUM_DRAWS = 4000


def set_up(model, **settings):
    """Return a guide that was set up, with its parameters at the start."""
    settings = {"num_layers": 2, "hidden_dims": (8,), "num_bins": 4} | settings
    guide = AutoRealNVP(model, **settings)
    trace = handlers.trace(handlers.seed(guide, jax.random.key(1))).get_trace()
    return guide, {name: s["value"] for name, s in trace.items() if s["type"] == "param"}


@cache
def set_up_once(name, precision):
    return set_up(MODELS[name][0])


@pytest.fixture
def start(request, x64):
    """Guide and parameters of each model at the start, in double precision."""
    return set_up_once(request.param, "double")


def perturb(rng_key, params, weight=0.5):
    keys = jax.random.split(rng_key, len(params))
    noise = {
        name: weight * jax.random.normal(key, jnp.shape(value))
        for key, (name, value) in zip(keys, params.items(), strict=True)
    }
    perturbed = {name: params[name] + noise[name] for name in params}
    return perturbed | {"auto_scale": params["auto_scale"] * jnp.exp(noise["auto_scale"])}


def draw(rng_key, guide, params):
    """Return the latents of one draw, and its log density by NumPyro's own bookkeeping."""
    seeded = handlers.seed(handlers.substitute(guide, data=params), rng_key)
    sites = handlers.trace(seeded).get_trace().values()
    sites = [site for site in sites if site["type"] == "sample"]
    log_q = sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in sites)
    flat = sites[0]["value"]
    return {site["name"]: site["value"] for site in sites[1:]}, log_q, flat


def draw_flat(rng_key, guide, params, num_draws=NUM_DRAWS):
    keys = jax.random.split(rng_key, num_draws)
    return quick_jit(jax.vmap(lambda key: draw(key, guide, params)[2]))(keys)


def assert_same_moments(sample, other, extra=0.0):
    """Compare means and standard deviations of two samples within 4 standard errors."""
    count = 1 / len(sample) + 1 / len(other)
    sd = np.std(other, axis=0)
    kurtosis = np.mean((other - other.mean(0)) ** 4, axis=0) / sd**4
    mean_error, sd_error = (
        sd * np.sqrt(count + extra),
        sd * np.sqrt((kurtosis - 1) / 4 * (count + extra)),
    )
    assert np.all(np.abs(np.mean(sample, axis=0) - np.mean(other, axis=0)) < 4 * mean_error)
    assert np.all(np.abs(np.std(sample, axis=0) - sd) < 4 * sd_error)


@pytest.mark.parametrize(("start", "dim"), [(n, MODELS[n][1]) for n in MODELS], indirect=["start"])
def test_the_guide_has_the_dimension_of_the_unconstrained_latents(start, dim):
    guide, params = start
    assert guide.latent_dim == dim
    assert params["auto_loc"].shape == params["auto_scale"].shape == (dim,)
    has_couplings = any("coupling" in name for name in params)
    assert has_couplings == (dim > 1)


@pytest.mark.parametrize("start", MODELS, indirect=True)
def test_log_prob_of_a_draw_is_that_of_the_guide_trace(start, rng_key):
    guide, params = start
    params = perturb(rng_key, params)

    @quick_jit
    @jax.vmap
    def densities(key):
        latents, log_q, flat = draw(key, guide, params)
        seeded = handlers.seed(handlers.substitute(guide, data=params), key)
        forward = latents_and_log_density(handlers.trace(seeded).get_trace())
        returned, log_det = unconstrain(guide, latents)
        constrained, same_log_det = constrain(guide, flat)
        return {
            "log_q": (log_prob(guide, params, latents), log_q),
            "forward log_q": (forward[1], log_q),
            "latents": (forward[0], latents),
            "constrain": (constrained, latents),
            "unconstrain": (returned, flat),
            "log_det": (log_det, same_log_det),
        }

    for one, other in densities(jax.random.split(rng_key, 50)).values():
        jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, other)


@pytest.mark.parametrize("start", ["mixed", "plate", "matrix"], indirect=True)
def test_the_log_det_of_constrain_is_that_of_its_jacobian(start, rng_key):
    guide, _ = start
    flat = jax.random.normal(rng_key, (guide.latent_dim,))

    def ravel(flat):
        latents = constrain(guide, flat)[0]
        return jnp.concatenate([jnp.ravel(value) for value in latents.values()])

    exact = jnp.linalg.slogdet(jax.jacobian(ravel)(flat))[1]
    assert_allclose(constrain(guide, flat)[1], exact, rtol=1e-12)


# model, ends of the support, and the constrained points at equally spaced points inside
ONE_DIMENSIONAL = {"uniform": lambda u: 20 * scipy.special.expit(u) - 10, "normal": lambda u: u}


@pytest.mark.parametrize("start", ONE_DIMENSIONAL, indirect=True)
def test_the_density_is_normalized_on_the_constrained_space(start, rng_key, request):
    guide, params = start
    params = perturb(rng_key, params, weight=0.3)
    points = ONE_DIMENSIONAL[request.node.callspec.params["start"]]
    flat = draw_flat(rng_key, guide, params, 200)
    center, reach = np.mean(flat), 8 * np.std(flat)
    # Points dense where the density is steep; the trapezoid rule then needs their spacing.
    grid = points(np.linspace(center - reach, center + reach, 40_001))
    density = quick_jit(jax.vmap(lambda z: jnp.exp(log_prob(guide, params, {"z": z}))))(grid)
    # Kinks of the density at the knots of the spline make the rule second order.
    assert_allclose(np.trapezoid(density, grid), 1.0, atol=1e-6)


@pytest.mark.parametrize("start", PROPER, indirect=True)
def test_the_guide_starts_at_the_unconstrained_moments_of_the_prior(start, rng_key):
    guide, params = start
    model = handlers.block(guide.model, hide_fn=lambda site: site["type"] == "deterministic")

    def prior_draw(key):
        trace = handlers.trace(handlers.seed(model, key)).get_trace()
        latents = {name: trace[name]["value"] for name in guide._init_locs}
        flat = unconstrain_fn(handlers.seed(model, key), (), {}, latents)
        return jnp.concatenate([jnp.ravel(flat[name]) for name in guide._init_locs])

    prior_key, guide_key = jax.random.split(rng_key)
    prior = quick_jit(jax.vmap(prior_draw))(jax.random.split(prior_key, NUM_DRAWS))
    # The start is itself measured, on 2000 draws.
    assert_same_moments(draw_flat(guide_key, guide, params), prior, extra=1 / 2000)


def test_the_start_of_a_uniform_prior_has_the_moments_of_the_logistic(rng_key):
    _, params = set_up(uniform)
    sd = np.pi / np.sqrt(3)
    assert abs(params["auto_loc"][0]) < 4 * sd / np.sqrt(2000)
    # The logistic distribution has a kurtosis of 4.2.
    assert abs(params["auto_scale"][0] - sd) < 4 * sd * np.sqrt(3.2 / 4 / 2000)


def test_the_start_leaves_out_prior_draws_at_the_ends_of_their_support():
    # exp(60 x) overflows for one draw in fourteen and underflows for as many.
    guide, params = set_up(lambda: numpyro.sample("z", dist.LogNormal(0.0, 60.0)))
    assert jnp.all(jnp.isfinite(params["auto_loc"]))
    assert 20 < params["auto_scale"][0] < 60


def test_the_guide_starts_at_the_initial_point_of_an_improper_prior(rng_key):
    guide, params = set_up(improper)
    assert_array_equal(params["auto_loc"], guide._init_latent)
    flat = draw_flat(rng_key, guide, params)
    standard = np.random.default_rng(0).standard_normal((10**6, 3)) + guide._init_latent
    assert_same_moments(np.asarray(flat), standard)


@pytest.mark.parametrize("variance", [1.0, 0.01])
def test_init_variance_is_that_of_the_latents(variance, rng_key):
    def model():
        numpyro.sample("a", dist.Uniform(-10.0 * jnp.ones(4), 10.0).to_event(1))

    guide, params = set_up(model, init_variance=variance)
    flat = draw_flat(rng_key, guide, params)
    a = np.asarray(jax.vmap(lambda u: constrain(guide, u)[0]["a"])(flat))
    # The start is centered on the mean of 2000 logistic draws, in units of da/du = 5.
    assert np.all(np.abs(a.mean(0)) < 4 * (5 * 1.82 / np.sqrt(2000) + np.sqrt(variance / len(a))))
    covariance = np.cov(a.T) / variance
    # a = 10 tanh(u / 2) at sd(u) = sd(a) / 5: the variance falls by sd(u)^2 to second order, and
    # by a relative (a / 10)^2 at most where the center is off.
    linearization = variance / 25 + 2 * (np.abs(a.mean(0)).max() / 10) ** 2
    error = 4 * np.sqrt(2 / len(a)) + linearization
    assert_allclose(covariance, np.eye(4), atol=error)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_init_variance_must_be_positive(variance):
    with pytest.raises(ValueError, match=r"`init_variance` must be > 0, but is"):
        AutoRealNVP(normal, init_variance=variance)


def test_noise_and_deterministic_sites_are_no_latents(rng_key):
    guide, params = set_up(noisy)
    latents, _, _ = draw(rng_key, guide, params)
    assert list(latents) == ["z"]
    samples = guide.sample_posterior(rng_key, params)
    assert samples["z"].shape == ()
    assert "spikes" not in samples
    assert "x" not in samples


def test_latent_shapes_are_those_of_the_model(rng_key):
    for name, shapes in {
        "plate": {"center": (), "gain": (3,)},
        "matrix": {"weights": (2, 3)},
        "cholesky": {"factor": (2, 2)},
    }.items():
        guide, params = set_up_once(name, "single")
        latents, _, _ = draw(rng_key, guide, params)
        assert {name: value.shape for name, value in latents.items()} == shapes


def conjugate():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.asarray(1.0))


def test_plain_svi_trains_the_guide(rng_key):
    guide = AutoRealNVP(conjugate, num_bins=4)
    svi = SVI(conjugate, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=50))
    result = svi.run(rng_key, 300, progress_bar=False)
    # The posterior is N(1/2, 1/2), and the evidence N(1; 0, 2).
    log_evidence = -0.5 * np.log(4 * np.pi) - 0.25
    assert result.losses[0] > result.losses[-100:].mean() + 0.1
    # The ELBO of a draw has no variance at the optimum, so no Monte Carlo error is left here.
    assert_allclose(result.losses[-100:].mean(), -log_evidence, atol=0.01)
    flat = draw_flat(rng_key, guide, result.params)[:, 0]
    # KL = (mean error)^2 / (2 variance) = (mean error)^2 in nats, and the gap above is 0.01.
    assert abs(flat.mean() - 0.5) < 0.1 + 4 * np.sqrt(0.5 / len(flat))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_of_a_guide_gives_the_same_draws(duplicate, rng_key):
    guide, params = set_up_once("plate", "single")
    again = duplicate(guide)
    for one, other in zip(
        jax.tree.leaves(draw(rng_key, guide, params)),
        jax.tree.leaves(draw(rng_key, again, params)),
        strict=True,
    ):
        assert_array_equal(one, other)
    assert_array_equal(again._start[0], guide._start[0])


@pytest.mark.parametrize("corner", [-100.0, 100.0])
def test_gradients_are_finite_in_a_saturated_corner(corner, rng_key):
    def model():
        numpyro.sample("a", dist.Uniform(-10.0 * jnp.ones(4), 10.0).to_event(1))

    guide, params = set_up(model)
    params["auto_loc"] = jnp.full(4, corner)

    @quick_jit
    @jax.value_and_grad
    def objective(params, key):
        seeded = handlers.seed(handlers.substitute(guide, data=params), key)
        latents, log_q = latents_and_log_density(handlers.trace(seeded).get_trace())
        return log_q + latents["a"].sum()

    value, gradient = objective(params, rng_key)
    assert jnp.isfinite(value)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    # log q = -log |dz/du| + ... rises by one for each unit of u into the corner.
    assert_allclose(gradient["auto_loc"], np.sign(corner), rtol=1e-3)
