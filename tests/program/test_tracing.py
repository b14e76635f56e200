"""Reading a program traces it: nothing is run, and what is static is known."""

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
from programs import ANY_Z, draw_z, noise_in_scan

from numpyro_dsn import behavior, simulator
from numpyro_dsn.constraints import AtLeast, AtMost, Moments
from numpyro_dsn.program import draw_prior, read, simulate

# Nothing is run


def refuse_to_run(*_):
    raise AssertionError("the simulator was run")


def callback_model():
    z = draw_z()
    shape = jax.ShapeDtypeStruct((), z.dtype)
    x = jax.pure_callback(refuse_to_run, shape, z, vmap_method="sequential")
    jax.debug.callback(refuse_to_run, z)
    x += jax.experimental.io_callback(refuse_to_run, shape, z)
    numpyro.sample("w", dist.Normal(x, 1.0))
    numpyro.sample("bounded", dist.Uniform(jnp.asarray(0.0) - 1.0, jnp.ones(2)).to_event(1))
    numpyro.deterministic("x", x)


def test_a_simulator_of_the_host_is_not_called(rng_key):
    program = read(rng_key, callback_model, {"x": Moments(jnp.asarray(0.5) * 2.0)}, (), {})
    assert list(program.latents) == ["z", "w", "bounded"]
    assert_allclose(program.supports["bounded"].base_constraint.lower_bound, -1.0)


def test_nothing_of_the_simulator_is_compiled(rng_key, monkeypatch):
    compiled = []
    jit = jax.jit

    def counting(function, *args, **kwargs):
        compiled.append(function)
        return jit(function, *args, **kwargs)

    monkeypatch.setattr("numpyro_dsn.program.evaluation.jax.jit", counting)
    read(rng_key, noise_in_scan, {"x": Moments(0.0)}, (), {})
    assert len(compiled) == 1  # positions inside the supports


def test_prototypes_hold_numbers_where_they_can_and_shapes_elsewhere(rng_key):
    def model():
        z = numpyro.sample("z", dist.Uniform(-jnp.ones(2), jnp.ones(2)).to_event(1))
        numpyro.sample("w", dist.Normal(z.sum(), jnp.asarray(2.0)), infer={"units": "mV"})
        numpyro.deterministic("x", 2 * z)
        with simulator():
            numpyro.sample("noise", dist.Normal(z, 1.0).to_event(1))

    def stated(sites):
        behavior("x", sites["x"], Moments(jnp.asarray([1, 2]) / 2, std=jnp.full(2, 0.1)))
        behavior("f", sites["w"], AtLeast(jnp.asarray(3.0)))

    program = read(rng_key, model, stated, (), {})
    leaves = jax.tree.leaves((program.constraints, program.supports, program.latents["z"]["fn"]))
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    assert program.sites["x"]["value"] == jax.ShapeDtypeStruct((2,), jnp.result_type(float))
    assert program.sites["w"]["infer"]["units"] == "mV"
    assert program.sites["noise"]["fn"].event_shape == (2,)
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(program.sites))
    for bound in (program.lower, program.upper, program.units):
        assert isinstance(bound, np.ndarray)
        assert bound.dtype == jnp.result_type(float)
    assert_allclose(program.lower, [0.5, 1.0, 0.01, 0.01, 3.0], rtol=1e-6)
    assert_allclose(program.units, [0.1, 0.1, 0.01, 0.01, np.nan], rtol=1e-6)
    assert list(program.latents) == list(program.supports) == ["z", "w"]
    for name, message in program.latents.items():
        assert np.all(program.supports[name](message["value"]))


def test_bounds_and_units_have_the_precision_that_was_asked_for(rng_key, x64):
    program = read(rng_key, draw_z, {"z": Moments(0.1, 1e-9)}, (), {})
    assert program.lower.dtype == program.units.dtype == np.float64
    assert_allclose(program.units, [1e-9, 1e-18], rtol=1e-12)


def test_a_support_that_looks_dynamic_may_be_static(rng_key):
    def model():
        z = draw_z()
        numpyro.sample("w", dist.Uniform(0.0 * z, jnp.exp(0.0 * z)))

    program = read(rng_key, model, ANY_Z, (), {})
    assert_allclose(jax.tree.leaves(program.supports["w"]), [0.0, 1.0])


# Arguments


def use_data(data):
    x = draw_z()
    numpyro.deterministic("x", x * jnp.mean(data) + data[0])


@pytest.mark.parametrize(
    "data",
    [np.arange(3.0), jnp.arange(3.0), np.arange(3), [0.0, 1.0, 2.0]],
    ids=["numpy", "jax", "integers", "list"],
)
def test_arrays_of_any_kind_are_arguments(data, rng_key):
    data = data if hasattr(data, "shape") else np.asarray(data, np.float16)
    program = read(rng_key, use_data, {"x": Moments(0.0)}, (data,), {})
    assert program.traces_arrays
    run = simulate(rng_key, program.model, {"z": 0.5}, program.constraints, (data,), {})
    assert_allclose(run.statistics, [0.5])


def test_an_array_may_be_a_size_but_then_it_is_no_input(rng_key):
    def model(sizes):
        numpyro.deterministic("x", draw_z() * jnp.ones(tuple(int(size) for size in sizes)))

    sizes = np.array([2, 3])
    program = read(rng_key, model, {"x": AtLeast(np.zeros((2, 3)))}, (sizes,), {})
    assert not program.traces_arrays


# Held sites


def two_normals():
    z, u = numpyro.sample("z", dist.Normal()), numpyro.sample("u", dist.Normal())
    numpyro.deterministic("x", z + u)


def two_in_a_scan():
    def step(carry, _):
        return carry + numpyro.sample("u", dist.Normal()), None

    numpyro.deterministic("x", scan(step, numpyro.sample("z", dist.Normal()), None, 1)[0])


def delta():
    z, u = numpyro.sample("z", dist.Normal()), numpyro.sample("u", dist.Delta(2.0))
    numpyro.deterministic("x", z + u)


HELD = {
    "substitute": handlers.substitute(two_normals, {"u": 2.0}),
    "substitute-array": handlers.substitute(two_normals, {"u": jnp.array(2.0)}),
    "substitute-in-scan": handlers.substitute(two_in_a_scan, {"u": jnp.array([2.0])}),
    "replay": handlers.replay(
        two_normals, {"u": {"type": "sample", "value": 2.0, "is_observed": False, "infer": {}}}
    ),
    "do": handlers.do(two_normals, {"u": 2.0}),
    "delta": delta,
}


@pytest.mark.parametrize("model", HELD.values(), ids=HELD.keys())
def test_a_value_that_does_not_change_with_the_key_is_held(model, rng_key):
    program = read(rng_key, model, {"x": Moments(1.0, 0.5)}, (), {})
    assert list(program.latents) == ["z"]
    assert not program.is_stochastic
    run = simulate(rng_key, program.model, {"z": 0.5}, program.constraints, (), {})
    assert_allclose(run.statistics[0], 2.5)
    assert_allclose(run.log_prior, dist.Normal().log_prob(0.5), rtol=1e-6)
    assert list(draw_prior(rng_key, program, 2, (), {})) == ["z"]


# Statements about a site


@pytest.mark.parametrize("site", ["z", "double", "spikes"])
def test_a_statement_named_like_a_site_speaks_about_it(site, rng_key):
    def model():
        numpyro.deterministic("double", 2 * draw_z())
        with simulator():
            numpyro.sample("spikes", dist.Poisson(3.0))

    def stated(sites):
        behavior(site, sites[site], AtMost(4.0))
        behavior("other", sites["z"] + 1.0, Moments(1.5))

    program = read(rng_key, model, stated, (), {})
    assert program.labels == [f"mean[{site}]", "mean[other]"]
    assert list(program.sites) == ["z", "double", "spikes", "other"]
    run = simulate(rng_key, program.model, {"z": 0.3}, program.constraints, (), {})
    assert_allclose(run.statistics, [run.sites[site], 1.3], rtol=1e-6)
    assert list(run.sites) == ["z", "double", "spikes", "other"]
    unread = simulate(rng_key, program.model, {"z": 0.3}, None, (), {})
    assert_array_equal(unread.statistics, run.statistics)


# Statistics that are no floats


@pytest.mark.parametrize("constraint", [Moments(1.0), Moments(1.0, 0.5), AtMost(2.0)])
@pytest.mark.parametrize("kind", [jnp.int32, bool])
def test_counts_and_decisions_have_means_that_are_floats(kind, constraint, rng_key):
    def model():
        numpyro.deterministic("x", (3 * draw_z()).astype(kind))

    program = read(rng_key, model, {"x": constraint}, (), {})
    run = simulate(rng_key, program.model, {"z": jnp.array(0.4)}, program.constraints, (), {})
    assert run.statistics.dtype == jnp.result_type(float)
    assert run.statistics[0] == 1.0
