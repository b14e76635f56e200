"""`behavior` through every consumer of NumPyro messages, and what `simulator` marks."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.inspect import generate_graph_specification, get_model_relations
from numpyro.infer.reparam import LocScaleReparam

from numpyro_dsn import behavior, simulator
from numpyro_dsn.constraints import Moments
from numpyro_dsn.primitives import is_simulator, stated_behaviors

MEAN, STD = np.array([0.5, 1.0]), np.array([0.1, 0.2])
TARGET = Moments(MEAN, STD)


def circuit():
    gain = numpyro.param("gain", 2.0)
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    return behavior("rate", gain * z, TARGET)


def get_trace(model, rng_key, *args):
    return handlers.trace(handlers.seed(model, rng_key)).get_trace(*args)


def constant(value):
    return lambda site: jnp.full(2, value) if site["name"] == "z" else None


Z = jnp.array([0.3, -0.4])
WRAPPERS = {
    "trace": lambda model: model,
    "substitute": lambda model: handlers.substitute(model, data={"z": Z}),
    "substitute_fn": lambda model: handlers.substitute(model, substitute_fn=constant(1.0)),
    "condition": lambda model: handlers.condition(model, data={"z": Z}),
    "do": lambda model: handlers.do(model, data={"z": Z}),
    "block": lambda model: handlers.block(model, hide=["z", "gain"]),
    "mask": lambda model: handlers.mask(model, mask=False),
    "lift": lambda model: handlers.lift(model, prior={"gain": dist.LogNormal()}),
    "scale": lambda model: handlers.scale(model, scale=3.0),
    "replay": lambda model: handlers.replay(model, trace=get_trace(model, jax.random.key(1))),
    "infer_config": lambda model: handlers.infer_config(model, config_fn=lambda site: {"a": 1}),
    "reparam": lambda model: handlers.reparam(model, config={"z": LocScaleReparam(0)}),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_a_handler_keeps_the_statement(wrap, rng_key):
    recorded = {}

    def model():
        recorded["statistic"] = circuit()

    sites = get_trace(wrap(model), rng_key)
    stated = stated_behaviors(sites)
    assert list(stated) == ["rate"]
    assert stated["rate"] is TARGET
    assert sites["rate"]["type"] == "deterministic"
    assert_array_equal(sites["rate"]["value"], recorded["statistic"])


@pytest.mark.parametrize("name", ["substitute", "condition", "do"])
def test_a_held_latent_reaches_the_statistic(name, rng_key):
    sites = get_trace(WRAPPERS[name](circuit), rng_key)
    assert_allclose(sites["rate"]["value"], 2 * Z)


def test_scope_renames_so_that_two_circuits_fit_in_one_model(rng_key):
    def pair():
        for side in ("left", "right"):
            handlers.scope(circuit, prefix=side)()

    assert list(stated_behaviors(get_trace(pair, rng_key))) == ["left/rate", "right/rate"]


def test_plate_is_recorded_and_broadcasts_nothing(rng_key):
    def model():
        with numpyro.plate("cells", 3):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            behavior("rate", 2 * z, Moments(jnp.zeros(3)))
            behavior("total", z.sum(), Moments(0.0))

    sites = get_trace(model, rng_key)
    assert list(stated_behaviors(sites)) == ["rate", "total"]
    assert sites["rate"]["value"].shape == (3,)
    assert sites["total"]["value"].shape == ()
    assert [frame.name for frame in sites["rate"]["cond_indep_stack"]] == ["cells"]


def scanned():
    def step(carry, increment):
        z = numpyro.sample("z", dist.Normal(carry, 1.0))
        behavior("rate", 2 * z, Moments(0.5, 0.1))
        return z + increment, z

    return scan(step, 0.0, jnp.zeros(3))[1]


def test_scan_records_the_statement_of_every_step(rng_key):
    sites = get_trace(scanned, rng_key)
    stated = stated_behaviors(sites)
    assert list(stated) == ["rate"]
    assert_allclose(sites["rate"]["value"], 2 * sites["z"]["value"])
    # The target is stacked like the statistic, so that the two still fit.
    assert_allclose(stated["rate"].mean, np.full(3, 0.5))
    assert_allclose(stated["rate"].std, np.full(3, 0.1))
    stated["rate"].validate("rate", sites["rate"]["value"].shape)


def test_a_statement_after_scan_is_kept(rng_key):
    def model():
        values = handlers.block(scanned, hide=["rate"])()
        behavior("mean", values.mean(), Moments(0.0))

    assert list(stated_behaviors(get_trace(model, rng_key))) == ["mean"]


@pytest.mark.parametrize("z", [-1.0, 1.0])
def test_cond_keeps_the_statement_of_both_branches(z, rng_key):
    def model():
        numpyro.sample("z", dist.Normal(0.0, 1.0))

        def branch(sign):
            return lambda x: behavior("rate", sign * x, Moments(0.0))

        cond(z > 0, branch(1.0), branch(-1.0), z)

    sites = get_trace(model, rng_key)
    assert list(stated_behaviors(sites)) == ["rate"]
    assert_allclose(sites["rate"]["value"], 1.0)


def test_jit_and_vmap_carry_statistic_and_traced_target(rng_key):
    def state(rng_key, mean):
        sites = get_trace(
            lambda: behavior("rate", numpyro.sample("z", dist.Normal()), Moments(mean)), rng_key
        )
        return sites["rate"]["value"], stated_behaviors(sites)["rate"].mean

    keys, means = jax.random.split(rng_key, 3), jnp.array([0.0, 1.0, 2.0])
    values, targets = jax.vmap(state)(keys, means)
    assert_array_equal(targets, means)
    assert len(set(values.tolist())) == 3
    for key, mean, value in zip(keys, means, values, strict=True):
        assert_allclose(jax.jit(state)(key, mean), (value, mean), rtol=1e-6)


def test_predictive_returns_the_statistic_by_default(rng_key):
    draws = Predictive(circuit, num_samples=5)(rng_key)
    assert set(draws) == {"z", "rate"}
    assert_allclose(draws["rate"], 2 * draws["z"])


def test_predictive_recomputes_the_statistic_of_given_draws(rng_key):
    z = jnp.arange(8.0).reshape(4, 2)
    draws = Predictive(circuit, posterior_samples={"z": z, "rate": jnp.zeros((4, 2))})(rng_key)
    assert_allclose(draws["rate"], 2 * z)


def run_nuts(model):
    mcmc = MCMC(NUTS(model), num_warmup=10, num_samples=10, progress_bar=False)
    mcmc.run(jax.random.key(0))
    return mcmc


def latent_circuit():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    behavior("rate", 2 * z, Moments(jnp.array([0.5, 1.0]), jnp.array([0.1, 0.2])))


@pytest.fixture(scope="module")
def mcmc():
    return run_nuts(latent_circuit)


def test_nuts_returns_the_statistic(mcmc):
    draws = mcmc.get_samples()
    assert_allclose(draws["rate"], 2 * draws["z"], rtol=1e-6)


@pytest.mark.usefixtures("numpyro_ranks")
def test_arviz_has_the_statistic_and_later_models_still_convert(mcmc):
    import arviz as az

    data = az.from_numpyro(mcmc)
    assert data["posterior"]["rate"].shape == (1, 10, 2)
    assert_allclose(data["posterior"]["rate"], 2 * data["posterior"]["z"], rtol=1e-6)

    # An array among the static metadata of one model would break every later conversion.
    def other():
        with numpyro.plate("cells", 2):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            behavior("rate", 3 * z, Moments(jnp.array([7.0, 8.0])))

    data = az.from_numpyro(run_nuts(other))
    assert data["posterior"]["rate"].dims == ("chain", "draw", "cells")
    assert_array_equal(az.from_numpyro(mcmc)["posterior"]["rate"].shape, (1, 10, 2))


@pytest.mark.parametrize("mean", [np.zeros(2), jnp.ones(2), [0.0, 1.0]], ids=["np", "jnp", "list"])
@pytest.mark.usefixtures("numpyro_ranks")
def test_model_relations_show_the_statistic(mean):
    def model():
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        behavior("rate", 2 * z, Moments(mean))

    graph = generate_graph_specification(get_model_relations(model))
    assert ("z", "rate") in graph["edge_list"]


@pytest.mark.usefixtures("numpyro_ranks")
def test_autoguide_draws_the_statistic(rng_key):
    guide = AutoNormal(latent_circuit)
    get_trace(guide, rng_key)
    params = {"z_auto_loc": Z, "z_auto_scale": jnp.ones(2)}
    draws = guide.sample_posterior(rng_key, params, sample_shape=(4,))
    assert_allclose(draws["rate"], 2 * draws["z"], rtol=1e-6)


def test_trace_elbo_and_svi_do_not_see_the_statement(rng_key):
    def plain():
        numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def fit(model):
        svi = SVI(model, AutoNormal(plain), numpyro.optim.Adam(0.1), Trace_ELBO(10))
        state, loss = svi.update(svi.init(rng_key))
        return loss, svi.get_params(state)

    jax.tree.map(assert_array_equal, fit(latent_circuit), fit(plain))


def test_without_a_handler_the_statistic_is_returned():
    statistic = jnp.array([1.0, 2.0])
    assert behavior("rate", statistic, TARGET) is statistic
    assert behavior("rate", statistic, TARGET) is statistic  # and nothing was registered


def test_with_a_handler_the_statistic_is_returned(rng_key):
    returned = handlers.seed(circuit, rng_key)()
    assert_array_equal(returned, get_trace(circuit, rng_key)["rate"]["value"])


def test_two_statements_of_one_name_are_caught_by_a_plain_trace(rng_key):
    def twice():
        behavior("rate", 1.0, Moments(0.0))
        behavior("rate", 2.0, Moments(0.0))

    with pytest.raises(AssertionError, match="`rate` duplicated"):
        get_trace(twice, rng_key)


def test_plain_deterministic_sites_state_nothing(rng_key):
    def model():
        with numpyro.plate("cells", 2):
            numpyro.deterministic("x", jnp.zeros(2))
        numpyro.prng_key()

    assert stated_behaviors(get_trace(model, rng_key)) == {}


def mixed():
    numpyro.sample("z", dist.Normal())
    with simulator(), numpyro.plate("cells", 2):
        numpyro.sample("noise", dist.Normal(), infer={"enumerate": "parallel"})
        numpyro.param("gain", 2.0)
        numpyro.deterministic("x", 1.0)
        behavior("rate", 1.0, Moments(0.0))
        numpyro.prng_key()
    numpyro.sample("after", dist.Normal())


def test_simulator_marks_the_sample_sites_inside_and_nothing_else(rng_key):
    sites = get_trace(mixed, rng_key)
    assert [name for name in sites if is_simulator(sites[name])] == ["noise"]
    assert sites["noise"]["infer"] == {"enumerate": "parallel", "simulator": True}
    assert sites["rate"]["infer"] == {"behavior": True}
    assert all("infer" not in sites[name] for name in ("cells", "gain", "x"))


def test_simulator_changes_no_value(rng_key):
    def plain():
        return numpyro.sample("noise", dist.Normal(), sample_shape=(3,))

    def marked():
        with simulator():
            return plain()

    assert_array_equal(handlers.seed(marked, rng_key)(), handlers.seed(plain, rng_key)())


def test_simulator_marks_noise_inside_scan(rng_key):
    def model():
        def step(carry, _):
            with simulator():
                return numpyro.sample("noise", dist.Normal(carry, 1.0)), None

        scan(step, 0.0, jnp.zeros(3))

    sites = get_trace(model, rng_key)
    assert is_simulator(sites["noise"])
    assert sites["noise"]["value"].shape == (3,)
