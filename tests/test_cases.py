"""Small inputs of the kinds that users of neighbouring tools report, and what is right for each."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from newton_fits import QUICK, quick_dsn, run_quietly
from numpyro.infer.autoguide import AutoMultivariateNormal

from numpyro_dsn import DSNWarning, Status
from numpyro_dsn.constraints import Moments


def uniform(name):
    return numpyro.sample(name, dist.Uniform(0.0, 2.0))


def one(statistic):
    """One latent, statistic x."""

    def model():
        numpyro.deterministic("x", statistic(uniform("z")))

    return model


def test_a_statistic_that_always_fails_is_named(capsys):
    def model():
        z, y = uniform("z"), uniform("y")
        for name, value in {"a": z, "b": z * jnp.nan, "c": y}.items():
            numpyro.deterministic(name, value)

    asked = {name: Moments(1.0, 0.2) for name in "abc"}
    dsn = quick_dsn(model, asked, AutoMultivariateNormal(model))
    with pytest.warns(DSNWarning, match=r"mean\[b\] in 100%") as warned:
        result = dsn.run(jax.random.key(0), progress_bar=False)
    assert result.status is Status.NONFINITE
    assert not any("mean[a]" in str(one.message) for one in warned)
    assert len(result.history.epochs.entropy) == 1
    result.print_summary()
    assert re.search(r"most often (mean|var)\[b\], in 100.00%", capsys.readouterr().out)


BROKEN = []


def fragile(z):
    """A simulator outside of JAX, which raises as long as `BROKEN` is not empty."""

    def call(values):
        if BROKEN:
            raise ValueError("the step size became too small")
        return np.asarray(values)

    shape = jax.ShapeDtypeStruct(z.shape, z.dtype)
    return jax.pure_callback(call, shape, z, vmap_method="expand_dims")


def test_finished_epochs_are_kept_if_a_simulation_raises():
    guide = AutoMultivariateNormal(lambda: uniform("z"))
    dsn = quick_dsn(one(fragile), {"x": Moments(0.5)}, guide, num_steps=40)
    first = run_quietly(dsn, num_epochs=1)
    BROKEN.append(True)
    try:
        with pytest.warns(DSNWarning, match="the step size became too small") as warned:
            result = dsn.run(None, init_state=first.state, progress_bar=False)
    finally:
        BROKEN.clear()
    assert "Return NaN where" in str(warned[0].message)
    assert result.status is Status.FAILED
    assert len(result.history.epochs.entropy) == 2
    assert result.entropy == first.entropy
    # Once it works again, the run goes on from there.
    assert len(run_quietly(dsn, 1, init_state=result.state).history.epochs.entropy) == 3


def test_a_callback_needs_no_gradient_whatever_the_guide():
    """A normal guide in logit space is not the optimum, but its mean can be met."""
    model = one(fragile)
    dsn = quick_dsn(model, {"x": Moments(0.8)}, AutoMultivariateNormal(model))
    result = run_quietly(dsn, num_epochs=4)
    measured = result.measured
    assert np.abs(measured.mean - 0.8) < QUICK.tolerance * measured.scale + 4 * measured.mean_se


@pytest.mark.parametrize(
    "statistic",
    [lambda z: z[0] + z[1] > 1, lambda z: jnp.floor(10 * z[0]).astype(int)],
    ids=["decision", "integer"],
)
def test_integers_of_many_latents(statistic):
    def model():
        z = numpyro.sample("z", dist.Normal(np.zeros(10), 1.0).to_event(1))
        numpyro.deterministic("x", statistic(z))

    guide = AutoMultivariateNormal(model, init_scale=1.0)
    dsn = quick_dsn(model, {"x": Moments(0.8)}, guide, num_steps=40)
    result = run_quietly(dsn, num_epochs=1)
    assert not dsn._fit.problem.follows_gradients
    assert np.isfinite(result.entropy)
    (chain,) = result.state.chains
    assert chain.solved
    assert np.all(chain.natural_parameters > 0)


def test_a_result_that_cannot_be_pickled_says_what_can():
    model = one(lambda z: z)
    dsn = quick_dsn(model, {"x": Moments(0.5)}, AutoMultivariateNormal(model))
    result = run_quietly(dsn, num_epochs=0)
    with pytest.raises(TypeError, match=r"`result\.save\(path\)`"):
        pickle.dumps(result)
