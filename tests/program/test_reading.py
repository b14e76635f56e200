"""What is read of a program, and what its simulations are."""

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density
from programs import ANY_Z, ZERO, draw_z, noise_in_scan, parametric, read_quietly

from numpyro_dsn import DSN, behavior, simulator
from numpyro_dsn.constraints import AtLeast, AtMost, Between, Moments
from numpyro_dsn.program import draw_prior, read, simulate


def test_frozen_parameters_keep_their_values_and_are_no_sites(rng_key):
    program = read_quietly(rng_key, parametric, {"rate": ZERO})
    trace = handlers.trace(handlers.seed(program.model, rng_key)).get_trace()
    assert list(trace) == ["z", "rate"]
    run = simulate(rng_key, program.model, {"z": jnp.array(0.3)}, program.constraints, (), {})
    assert_allclose(run.statistics, [0.6], rtol=1e-6)


# Latents


def plates():
    with numpyro.plate("cells", 3):
        numpyro.sample("z", dist.Normal())
        with numpyro.plate("layers", 2):
            numpyro.sample("w", dist.Normal().expand([4]).to_event(1))


def plate_in_scan():
    def step(carry, _):
        with numpyro.plate("cells", 3):
            z = numpyro.sample("z", dist.Normal())
        return carry + z.sum(), None

    scan(step, 0.0, jnp.zeros(2))


def several():
    numpyro.sample("z", dist.Uniform(0.0, 1.0))
    numpyro.sample("w", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    numpyro.sample("simplex", dist.Dirichlet(jnp.ones(4)))


def noisy_sites():
    z = draw_z(2)
    with simulator():
        x = numpyro.sample("x", dist.Normal(z, 1.0).to_event(1))
        numpyro.sample("spikes", dist.Poisson(jnp.exp(x)).to_event(1))


def noise_by_key():
    numpyro.deterministic("x", draw_z() + jax.random.normal(numpyro.prng_key()))


def deterministic_scan():
    z = draw_z()
    numpyro.deterministic("x", scan(lambda x, _: (x + z, x), z, jnp.zeros(3))[0])


def centred():
    loc = numpyro.sample("loc", dist.Normal())
    numpyro.sample("z", dist.Normal(loc, 1.0))


# name: model, a site to ask about, latents and their shapes, whether the simulator is stochastic
PROGRAMS = {
    "one": (draw_z, "z", {"z": ()}, False),
    "event": (lambda: draw_z(2, 3), "z", {"z": (2, 3)}, False),
    "several": (several, "z", {"z": (), "w": (2, 3), "simplex": (4,)}, False),
    "plates": (plates, "z", {"z": (3,), "w": (2, 3, 4)}, False),
    "blocked-plate": (handlers.block(plates, hide=["cells"]), "z", {"z": (3,), "w": (2, 3, 4)}, 0),
    "scope": (handlers.scope(plates, prefix="left"), "left/z", {"left/z": (3,)}, False),
    "reparam": (
        handlers.reparam(centred, config={"z": LocScaleReparam(0)}),
        "z",
        {"loc": (), "z_decentered": ()},
        False,
    ),
    "simulator-sites": (noisy_sites, "spikes", {"z": (2,)}, True),
    "prng_key": (noise_by_key, "x", {"z": ()}, True),
    "prng_key-in-scan": (noise_in_scan, "x", {"z": ()}, True),
    "deterministic-scan": (deterministic_scan, "x", {"z": ()}, False),
}


def ask(model, site, rng_key):
    """Return a constraint that fits a site of a model."""
    trace = handlers.trace(handlers.seed(model, rng_key)).get_trace()
    return {site: AtLeast(np.zeros(np.shape(trace[site]["value"])))}


@pytest.mark.parametrize(
    ("model", "site", "shapes", "is_stochastic"), PROGRAMS.values(), ids=PROGRAMS.keys()
)
def test_latents_and_noise_are_told_apart(model, site, shapes, is_stochastic, rng_key):
    program = read(rng_key, model, ask(model, site, rng_key), (), {})
    found = {name: np.shape(message["value"]) for name, message in program.latents.items()}
    assert found.items() >= shapes.items()
    assert len(found) == len(shapes) or site == "left/z"
    assert program.is_stochastic == is_stochastic
    assert program.is_proper
    seen = handlers.trace(handlers.seed(program.guide_model, rng_key)).get_trace()
    assert {name for name in seen if seen[name]["type"] == "sample"} == set(found)
    assert not any(message["type"] == "deterministic" for message in seen.values())


@pytest.mark.usefixtures("numpyro_ranks")
def test_a_plate_in_scan_is_read(rng_key):
    program = read(rng_key, plate_in_scan, {"z": AtLeast(np.zeros((2, 3)))}, (), {})
    assert program.latents["z"]["value"].shape == (2, 3)


@pytest.mark.parametrize("name", ["several", "plates", "simulator-sites"])
def test_prior_draws_are_latents_inside_their_supports(name, rng_key):
    model, site, *_ = PROGRAMS[name]
    program = read(rng_key, model, ask(model, site, rng_key), (), {})
    draws = draw_prior(rng_key, program, 5, (), {})
    assert set(draws) == set(program.latents)
    for latent, message in program.latents.items():
        assert draws[latent].shape == (5, *np.shape(message["value"]))
        assert jnp.all(message["fn"].support(draws[latent]))
        assert len(np.unique(np.asarray(draws[latent]).reshape(5, -1), axis=0)) == 5


def test_reading_leaves_no_trace_in_an_outer_handler(rng_key):
    with handlers.trace() as outer, handlers.seed(rng_seed=0):
        read(rng_key, draw_z, ANY_Z, (), {})
    assert not outer


# Simulation


@pytest.mark.parametrize(
    "name", ["several", "plates", "reparam", "simulator-sites", "prng_key-in-scan"]
)
def test_the_log_prior_is_the_log_density_without_the_noise(name, rng_key):
    model, site, *_ = PROGRAMS[name]
    program = read(rng_key, model, ask(model, site, rng_key), (), {})
    draws = draw_prior(rng_key, program, 1, (), {})
    latents = {latent: value[0] for latent, value in draws.items()}
    run = simulate(rng_key, program.model, latents, program.constraints, (), {})
    total, trace = log_density(handlers.seed(model, rng_key), (), {}, run.sites)
    noise = sum(
        message["fn"].log_prob(message["value"]).sum()
        for message in trace.values()
        if message["type"] == "sample" and message["name"] not in latents
    )
    assert_allclose(run.log_prior, total - noise, rtol=1e-5)


def test_the_log_prior_counts_scales_and_masks_as_log_density_does(rng_key):
    def model():
        with handlers.scale(scale=3.0):
            z = numpyro.sample("z", dist.Normal())
        with handlers.mask(mask=jnp.array([True, False])):
            numpyro.sample("w", dist.Normal(z, 1.0).expand([2]))

    program = read(rng_key, model, ANY_Z, (), {})
    latents = {"z": jnp.array(0.3), "w": jnp.array([0.1, 0.2])}
    run = simulate(rng_key, program.model, latents, program.constraints, (), {})
    assert_allclose(run.log_prior, log_density(model, (), {}, latents)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "latents"),
    [
        (noise_by_key, {"z": jnp.array(0.5)}),
        (noise_in_scan, {"z": jnp.array(0.5)}),
        (noisy_sites, {"z": jnp.array([0.5, 0.2])}),
    ],
    ids=["prng_key", "prng_key-in-scan", "simulator"],
)
def test_noise_is_fresh_for_every_key_and_the_same_for_one(model, latents, rng_key):
    program = read(rng_key, model, ask(model, "x", rng_key), (), {})

    def statistics(key):
        return simulate(key, program.model, latents, program.constraints, (), {}).statistics

    runs = jax.vmap(statistics)(jax.random.split(rng_key, 20))
    assert len(np.unique(np.asarray(runs), axis=0)) == 20
    assert_array_equal(statistics(rng_key), statistics(rng_key))


def test_noise_has_the_mean_of_the_simulator(rng_key):
    program = read(rng_key, noise_by_key, {"x": Moments(0.0, 1.0)}, (), {})

    def statistics(key):
        z = {"z": jnp.array(0.5)}
        return simulate(key, program.model, z, program.constraints, (), {}).statistics

    runs = jax.vmap(statistics)(jax.random.split(rng_key, 10_000))
    # x = 0.5 + N(0, 1): E x = 0.5, E x^2 = 1.25; standard errors 0.01 and 0.018.
    assert_allclose(runs.mean(0), [0.5, 1.25], atol=0.08)


def test_a_model_with_scan_is_simulated_at_the_given_latents(rng_key):
    def model():
        def step(carry, _):
            z = numpyro.sample("z", dist.Normal())
            return carry + z, carry + z

        path = scan(step, 0.0, jnp.zeros(3))[1]
        behavior("path", path, Moments(jnp.zeros(3), jnp.ones(3)))

    program = read(rng_key, model, None, (), {})
    latents = {"z": jnp.array([1.0, 2.0, 3.0])}
    run = simulate(rng_key, program.model, latents, program.constraints, (), {})
    assert_allclose(run.statistics, [1.0, 3.0, 6.0, 1.0, 9.0, 36.0])
    assert_allclose(run.log_prior, -7.0 - 1.5 * np.log(2 * np.pi), rtol=1e-6)


def test_a_statement_inside_scan_is_about_every_step(rng_key):
    def model():
        def step(carry, _):
            z = numpyro.sample("z", dist.Normal())
            behavior("rate", 2 * z, Moments(0.5, 0.1))
            return carry, None

        scan(step, 0.0, jnp.zeros(2))

    program = read(rng_key, model, None, (), {})
    assert program.labels == ["mean[rate[0]]", "mean[rate[1]]", "var[rate[0]]", "var[rate[1]]"]
    assert_allclose(program.lower, [0.5, 0.5, 0.01, 0.01], rtol=1e-6)


def test_a_dict_speaks_of_latent_deterministic_and_simulator_sites(rng_key):
    def model():
        z = draw_z()
        numpyro.deterministic("double", 2 * z)
        with simulator():
            numpyro.sample("spikes", dist.Poisson(3.0))

    stated = {"spikes": AtMost(4.0), "z": Moments(0.1, 0.2), "double": Between(0.0, 1.0)}
    program = read(rng_key, model, stated, (), {})
    assert program.labels == ["mean[spikes]", "mean[z]", "var[z]", "mean[double]"]
    assert_allclose(program.lower, [-np.inf, 0.1, 0.04, 0.0], rtol=1e-6)
    assert_allclose(program.upper, [4.0, 0.1, 0.04, 1.0], rtol=1e-6)
    latents = {"z": jnp.array(0.3)}
    run = simulate(rng_key, program.model, latents, program.constraints, (), {})
    assert_allclose(run.statistics, [run.sites["spikes"], 0.3, 0.04, 0.6], rtol=1e-5)


def test_a_callable_sees_every_site_and_may_add_noise_of_its_own(rng_key):
    seen = {}

    def model():
        numpyro.deterministic("double", 2 * draw_z())
        with simulator():
            numpyro.sample("spikes", dist.Poisson(3.0))

    def stated(sites):
        seen.update(sites)
        behavior("rate", sites["double"] + jax.random.normal(numpyro.prng_key()), ZERO)

    program = read(rng_key, model, stated, (), {})
    assert list(seen) == ["z", "double", "spikes"]
    assert program.labels == ["mean[rate]"]
    assert program.is_stochastic


def model_with_behavior():
    behavior("rate", 2 * draw_z(), Moments(0.5))


def double_z(sites):
    behavior("rate", 2 * sites["z"], Moments(0.5))


@pytest.mark.parametrize(
    ("model", "stated"),
    [(model_with_behavior, None), (draw_z, double_z)],
    ids=["in-the-model", "outside"],
)
def test_a_behavior_stands_in_the_model_or_outside(model, stated, rng_key):
    program = read(rng_key, model, stated, (), {})
    assert program.labels == ["mean[rate]"]
    run = simulate(rng_key, program.model, {"z": jnp.array(0.3)}, program.constraints, (), {})
    assert_allclose(run.statistics, [0.6], rtol=1e-6)


def test_statements_of_the_model_and_from_outside_add_up(rng_key):
    both = read(rng_key, model_with_behavior, {"z": AtLeast(0.0)}, (), {})
    assert both.labels == ["mean[rate]", "mean[z]"]
    replaced = read(rng_key, model_with_behavior, {"rate": Moments(0.7)}, (), {})
    assert replaced.labels == ["mean[rate]"]
    assert_allclose(replaced.lower, [0.7], rtol=1e-6)


def test_arguments_reach_the_model(rng_key):
    def model(size, *, gain=1.0):
        numpyro.deterministic("x", gain * draw_z() * jnp.ones(size))

    program = read(rng_key, model, {"x": AtLeast(np.zeros(3))}, (3,), {"gain": 2.0})
    latents = {"z": jnp.array(0.3)}
    run = simulate(rng_key, program.model, latents, program.constraints, (3,), {"gain": 4.0})
    assert_allclose(run.statistics, [1.2, 1.2, 1.2], rtol=1e-6)


def test_init_reads_the_model_with_its_arguments(rng_key):
    def model(size, *, target):
        behavior("x", draw_z() * jnp.ones(size), Moments(target))

    with pytest.raises(ValueError, match=r"behavior 'x': `mean` has shape \(3,\).*shape \(2,\)"):
        DSN(model).init(rng_key, 2, target=np.zeros(3))
