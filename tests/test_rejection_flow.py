"""A flow with holes, cut off at the faces of a box: its density is that of its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions import constraints

from numpyro_dsn import DSN, PenaltyMethod
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP, constrain, rejection, unconstrained_posterior
from numpyro_dsn.guides.flow import FlowDistribution, is_interval
from numpyro_dsn.guides.network import network, plane_waves
from numpyro_dsn.guides.rejection import HALF_WIDTH, RejectionFlow
from numpyro_dsn.guides.transforms import ElementwiseAffine

NUM_DRAWS = 50_000

pytestmark = pytest.mark.usefixtures("numpyro_ranks", "quick_compilation")


def mixture(dim, bounded=None, shift=0.0, has_holes=True, num_waves=0):
    """Three components, about half of their draws in the box, and a network that cuts holes.

    It sees the mixture's draws, or waves at the place that becomes of them.
    """
    rng = np.random.default_rng(dim)
    width = 1.2 / dim**0.3
    loc = jnp.asarray(rng.normal(0, width, (3, dim)), jnp.float32)
    scale = jnp.asarray(rng.lognormal(0, 0.3, (3, dim)) * width, jnp.float32)
    logits = jnp.asarray(rng.normal(0, 1, 3), jnp.float32)
    base = dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1)
    )
    layer = ElementwiseAffine(jnp.full(dim, 0.3 + shift), jnp.full(dim, 1.1))
    flow = FlowDistribution(base, [layer])
    place, start = None, rejection.START
    if num_waves:
        place, start = (jnp.full(dim, 0.2), jnp.full(dim, 0.9)), rejection.START_OF_WAVES
    layers = holes(rng, dim + 2 * num_waves, start) if has_holes else []
    return RejectionFlow(flow, layers, bounded or (True,) * dim, place, num_waves)


def holes(rng, num_inputs, start):
    """A network that rejects about half of a normal distribution's draws, in patches."""
    # A hidden layer has a value and a gate for each of its sixteen units.
    layers = [
        [rng.normal(0, 2 / np.sqrt(num_in), (num_in, num_out)), rng.normal(0, 1, num_out)]
        for num_in, num_out in ((num_inputs, 32), (16, 32), (16, 1))
    ]
    logits = np.asarray(network(layers, jnp.asarray(rng.normal(size=(1000, num_inputs)))))[:, 0]
    steepness = 6 / logits.std()
    weight, constant = layers[-1]
    shift = -start - steepness * (np.median(logits) - constant)
    layers[-1] = [steepness * weight, shift]
    return [tuple(jnp.asarray(leaf, jnp.float32) for leaf in pair) for pair in layers]


KINDS = {
    "box": {"has_holes": False},
    "box and holes": {},
    "box and holes of waves": {"num_waves": 8},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_density_is_that_of_the_draws(kind, rng_key):
    density = mixture(1, **kind)
    draws = np.asarray(jax.jit(lambda key: density.sample(key, (NUM_DRAWS,)))(rng_key))
    assert draws.shape == (NUM_DRAWS, 1)
    edges = np.linspace(-8, 8, 65)
    fine = np.linspace(-8, 8, 64 * 50 + 1)[:-1] + 16 / 6400
    exact = np.exp(jax.jit(density.log_prob)(fine[:, None].astype(np.float32)))
    shares = exact.reshape(64, 50).sum(1) * 16 / 3200
    assert_allclose(shares.sum(), 1.0, atol=0.005)
    counts = np.histogram(draws[:, 0], edges)[0]
    error = np.sqrt(NUM_DRAWS * shares) + 1
    assert np.all(np.abs(counts - NUM_DRAWS * shares) < 4.5 * error)
    # The test can fail: the flow before it was cut off has other shares.
    whole = shares * float(density.accepted_share())
    assert np.sum(np.abs(counts - NUM_DRAWS * whole) > 4.5 * error) > 5


def test_unbounded_coordinates_are_not_cut_off(rng_key):
    density = mixture(2, (False, True), has_holes=False)
    draws = np.asarray(jax.jit(lambda key: density.sample(key, (NUM_DRAWS,)))(rng_key))
    assert np.abs(draws[:, 0]).max() > HALF_WIDTH
    every = density.flow.sample(rng_key, (NUM_DRAWS,))
    kept = every[jnp.abs(every[:, 1]) < HALF_WIDTH]
    x, _ = rejection.to_box(draws, density.bounded)
    for power in (1, 2):
        mine, other = np.asarray(x**power), np.asarray(kept**power)
        error = np.sqrt(mine.var(0) / len(mine) + other.var(0) / len(other))
        assert np.all(np.abs(mine.mean(0) - other.mean(0)) < 4.5 * error)


@pytest.mark.parametrize("dim", [1, 2, 4, 10])
def test_the_accepted_share_is_that_of_many_draws(dim, rng_key):
    density = mixture(dim)
    noise = density.flow.base_dist.sample(rng_key, (400_000,))
    x = density.flow.transforms[0](noise)
    inside = rejection.is_inside(x, density.bounded)
    exact = float((inside * jnp.exp(density._log_chance(noise, x))).mean())
    assert 0.1 < exact < 0.9
    spread = np.sqrt(exact * (1 - exact))
    # Independent points would be as far off as this; the lattice is closer.
    independent = spread / np.sqrt(rejection.NUM_POINTS)
    assert abs(float(density.accepted_share()) - exact) < 2 * independent + 4 * spread / 632


def test_the_gradient_of_the_estimate_is_that_of_the_density(rng_key):
    """A normal distribution on an interval, where everything is known."""

    def density(loc):
        base = dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.zeros(1)),
            dist.Normal(jnp.zeros((1, 1)), jnp.ones((1, 1))).to_event(1),
        )
        layer = ElementwiseAffine(loc[None], jnp.array([0.8]))
        return RejectionFlow(FlowDistribution(base, [layer]), [], (True,))

    def exact_share(loc):
        above, below = (HALF_WIDTH - loc) / 0.8, (-HALF_WIDTH - loc) / 0.8
        return norm.cdf(above) - norm.cdf(below)

    u, loc = jnp.array([[0.4], [-2.0]]), jnp.array(1.2)

    def exact(loc):
        x, log_det = rejection.to_box(u, (True,))
        return norm.logpdf(x[:, 0], loc, 0.8) + log_det - jnp.log(exact_share(loc))

    assert_allclose(jax.jit(density(loc).log_prob)(u), exact(loc), atol=0.002)
    estimate = jax.jit(
        jax.vmap(jax.jacfwd(lambda loc, key: density(loc).estimate(key, u)), (None, 0))
    )
    gradients = estimate(loc, jax.random.split(rng_key, 200))
    for found, wanted in (
        (gradients.log_prob, jax.jacfwd(exact)(loc)),
        (gradients.cost, jax.grad(lambda loc: rejection.PRICE / exact_share(loc))(loc)),
    ):
        error = np.asarray(found).std(0) / np.sqrt(200)
        # A ratio of two means of 512 points is off by about one in 512.
        assert np.all(np.abs(found.mean(0) - wanted) < 4 * error + 0.01)
    # The test can fail: the share matters.
    alone = jax.jacfwd(lambda loc: norm.logpdf(rejection.to_box(u, (True,))[0][:, 0], loc, 0.8))
    assert np.all(np.abs(alone(loc) - jax.jacfwd(exact)(loc)) > 0.1)


def test_estimates_have_new_points_for_each_key(rng_key):
    density, u = mixture(2), jnp.zeros((1, 2))
    one, other = (density.estimate(key, u).cost for key in jax.random.split(rng_key))
    assert one == density.estimate(jax.random.split(rng_key)[0], u).cost
    assert one != other


def test_a_flow_that_left_the_box_has_finite_gradients(rng_key):
    density = mixture(2, shift=50.0)

    def both(density):
        log_prob, cost = density.estimate(rng_key, jnp.zeros((3, 2)))
        return log_prob.sum() + cost

    value, gradient = jax.value_and_grad(both)(density)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    draws = density.sample(rng_key, (3,))
    assert np.isfinite(draws).all()
    assert np.isfinite(density.log_prob(draws)).all()


def test_a_component_that_nobody_uses_has_no_say(rng_key):
    """Its points are so far away that the layers overflow; of all draws it has e^-50."""
    used = mixture(2, has_holes=False)
    zero = jnp.zeros(2)
    layers = [ElementwiseAffine(zero, zero + 1e25), ElementwiseAffine(zero, zero + 1e-25)]

    def total(shift):
        base = used.flow.base_dist
        normal = base.component_distribution.base_dist
        logits = base.mixing_distribution.logits.at[0].set(-50.0)
        components = dist.Normal(normal.loc.at[0].add(shift), normal.scale).to_event(1)
        base = dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
        density = RejectionFlow(FlowDistribution(base, layers), [], used.bounded)
        log_prob, cost = density.estimate(rng_key, jnp.zeros((3, 2)))
        return log_prob.sum() + cost

    far, gradient = jax.value_and_grad(total)(1e22)
    assert_allclose(far, total(50.0), rtol=1e-5)
    assert np.isfinite(gradient)


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_the_lattice_fills_the_cube_evenly(dim):
    points = rejection._lattice(512, dim)
    assert points.shape == (512, dim)
    for coordinate in points.T:
        gaps = np.diff(np.sort(coordinate))
        assert gaps.max() < 8 / 512
    # In pairs too: every sixteenth of a square has about its share of 32.
    for first in range(dim - 1):
        counts = np.histogram2d(points[:, first], points[:, first + 1], 4, [[0, 1], [0, 1]])[0]
        assert counts.min() >= 20
        assert counts.max() <= 44


def test_coordinates_of_the_box_have_an_inverse_and_its_volume():
    bounded = (True, False, True)
    u = jnp.array([[0.0, -3.0, 2.0], [9.0, 40.0, -12.0]])
    x, log_det = rejection.to_box(u, bounded)
    assert_allclose(rejection.from_box(x, bounded)[0], u[0], rtol=1e-5)
    assert_allclose(rejection.from_box(x, bounded)[1], u[1], rtol=0.02)  # rounding near a face
    jacobian = jax.vmap(jax.jacfwd(lambda u: rejection.to_box(u, bounded)[0]))(u)
    assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=0.02)
    faces = rejection.from_box(jnp.array([HALF_WIDTH, 5.0, -HALF_WIDTH]), bounded)
    assert np.isfinite(faces).all()


def test_space_is_pressed_into_the_box():
    bounded = (True, False)
    x = jnp.array([[0.0, 5.0], [1.5, 0.0], [-1.7, 0.0], [1.76, 0.0]])
    u, log_det = rejection.press_inside(x, bounded)
    jacobian = jax.vmap(jax.jacfwd(lambda x: rejection.press_inside(x, bounded)[0]))(x)
    assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-3, atol=1e-3)
    pressed, _ = rejection.to_box(u, bounded)
    assert_allclose(pressed[:2], x[:2], atol=1e-4)
    assert_allclose(pressed[2], x[2], atol=0.01)
    assert pressed[3, 0] < HALF_WIDTH


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        (constraints.unit_interval, True),
        (constraints.interval(-1.0, jnp.ones(3)), True),
        (constraints.independent(constraints.interval(0, 2), 1), True),
        (constraints.real_vector, False),
        (constraints.positive, False),
        (constraints.simplex, False),
    ],
    ids=["unit", "interval", "independent", "real", "positive", "simplex"],
)
def test_supports_that_are_boxes(support, expected):
    assert is_interval(support) is expected


def model():
    numpyro.sample("z", dist.Uniform(-jnp.ones(3), jnp.array([1.0, 5.0, 2.0])).to_event(1))
    numpyro.sample("a", dist.Normal(2.0, 0.5))
    numpyro.sample("b", dist.Beta(2.0, 3.0))


def start_of(guide, rng_key):
    trace = handlers.trace(handlers.seed(guide, rng_key)).get_trace()
    return {name: site["value"] for name, site in trace.items() if site["type"] == "param"}


@pytest.mark.parametrize("num_components", [1, 8])
def test_the_guide_starts_at_the_prior_and_half_or_more_are_kept(num_components, rng_key):
    guide = AutoRealNVP(model, num_components=num_components, truncated=True)
    values = start_of(guide, rng_key)
    assert guide.bounded == (True, True, True, False, True)
    assert constrain(guide, jnp.arange(5.0))[0]["a"] == 3.0  # the one that is unbounded
    posterior = unconstrained_posterior(guide, values)
    assert float(posterior.accepted_share()) > 0.4
    draws = guide.sample_posterior(rng_key, values, sample_shape=(5000,))
    assert np.all(np.abs(draws["z"] - np.array([0.0, 2.0, 0.5])) < np.array([1.0, 3.0, 1.5]))
    assert np.all((draws["b"] > 0) & (draws["b"] < 1))
    assert_allclose(draws["a"].mean(), 2.0, atol=0.3)
    assert draws["a"].max() > 3.0
    if num_components == 1:  # the means of several components are at random
        error = 0.5 / np.sqrt(5000)
        assert_allclose(draws["a"].mean(), 2.0, atol=4.5 * error)
        assert_allclose(draws["a"].std(), 0.5, atol=4.5 * error / np.sqrt(2))
        # The box cuts off the tails of what was matched to the prior, on one side more.
        assert_allclose(draws["b"].mean(), 0.4, atol=0.03)


@pytest.mark.parametrize(("num_waves", "logit"), [(0, 3.0), (4, 0.0)])
def test_as_many_are_accepted_at_the_start(num_waves, logit):
    density = mixture(2, (False, False), num_waves=num_waves)
    silent = jax.tree.map(jnp.zeros_like, density.acceptance)
    density = RejectionFlow(density.flow, silent, density.bounded, density.place, num_waves)
    x = jnp.asarray([[0.3, -1.0], [5.0, 2.0]])
    assert_allclose(density.accepted_share(), jax.nn.sigmoid(logit), rtol=1e-5)
    assert_allclose(density.log_prob(x), density.flow.log_prob(x), rtol=1e-5)


def test_the_exact_share_refuses_a_wrong_gradient():
    """The density has one with respect to draws; that of its parameters would lack a part."""
    density, u = mixture(2), jnp.array([0.3, -0.2])
    assert np.isfinite(jax.grad(density.log_prob)(u)).all()
    with pytest.raises(ValueError, match="estimate"):
        jax.grad(lambda density: density.log_prob(u))(density)


def test_gradients_reach_all_parameters(rng_key):
    density = mixture(2)
    u = density.sample(rng_key, (50,))

    def loss(density):
        return density.estimate(rng_key, u).log_prob.sum()

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(density))
    assert len(leaves) == 3 + 2 + 6
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in leaves)


def test_without_an_interval_nothing_is_cut_off(rng_key):
    guide = AutoRealNVP(lambda: numpyro.sample("a", dist.Normal(2.0, 0.5)), truncated=True)
    values = start_of(guide, rng_key)
    assert isinstance(unconstrained_posterior(guide, values), FlowDistribution)


@pytest.mark.parametrize("how", [{"truncated": True}, {"acceptance_dims": (4,)}])
def test_draws_have_no_gradient(how, rng_key):
    guide = AutoRealNVP(model, **how)
    fit = DSN(model, {"b": Moments(0.5)}, guide, multipliers=PenaltyMethod(1.0))
    with pytest.raises(ValueError, match=r"`acceptance_dims=\(\)` and `truncated=False`"):
        fit.run(rng_key, num_epochs=1)


def test_there_is_no_transform_from_the_base_to_the_latents(rng_key):
    guide = AutoRealNVP(model, truncated=True)
    values = start_of(guide, rng_key)
    with pytest.raises(ValueError, match=r"neutra=True"):
        guide.get_transform(values)


def test_waves_are_in_units_of_the_prior(rng_key):
    def model():
        numpyro.sample("a", dist.Normal(2.0, 500.0))
        numpyro.sample("b", dist.Uniform(0.0, 1e-3))

    guide = AutoRealNVP(model, acceptance_dims=(4,), num_waves=6, truncated=True)
    center, scale = unconstrained_posterior(guide, start_of(guide, rng_key)).place
    # 2,000 draws of the prior tell its width to 1.6 %; the box has variance one.
    assert_allclose(center, [2.0, 0.0], atol=4.5 * 500 / np.sqrt(2000))
    assert_allclose(scale, [500.0, 1.0], rtol=4.5 * 0.016)


def test_plane_waves_have_lengths_from_one_to_32():
    slopes = jax.jacfwd(lambda x: plane_waves(x, 6))(jnp.zeros(2))
    assert slopes.shape == (2 + 2 * 6, 2)
    assert_allclose(slopes[:2], np.eye(2))
    assert_allclose(np.linalg.norm(slopes[2:8], axis=1), 2.0 ** np.arange(6), rtol=1e-5)
    assert_allclose(slopes[8:], 0.0)


@pytest.mark.parametrize(("num_waves", "widths"), [(-1, (4,)), (8, ())])
def test_waves_need_a_network(num_waves, widths):
    with pytest.raises(ValueError, match="`num_waves` must be 0, or positive beside"):
        AutoRealNVP(model, acceptance_dims=widths, num_waves=num_waves)


@pytest.mark.parametrize("widths", [(0,), (4, -1), (2.5,)])
def test_widths_are_checked(widths):
    with pytest.raises(ValueError, match="`acceptance_dims` must be integers of at least 1"):
        AutoRealNVP(model, acceptance_dims=widths)
