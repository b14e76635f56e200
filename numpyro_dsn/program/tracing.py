"""A model's messages, of a model that is traced and never run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions import Distribution
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.primitives import is_behavior, is_simulator
from numpyro_dsn.program.arguments import join, split
from numpyro_dsn.program.program import Model
from numpyro_dsn.program.statements import Sites, is_replaced

LOOKS_AT_VALUES = (
    "The model or the behavior looks in Python at a value that only exists when the model runs, as "
    "`if`, `float()` and NumPy do. Every run must have the same latents and shapes, so that it can "
    "be compiled: choose with `jnp.where`, compute with `jax.numpy`, and pass sizes as Python "
    "numbers."
)


class Tracing(NamedTuple):
    """The messages of a model whose values were not computed.

    sites
        Messages by name. Those of parameters of the circuit have a ``support`` and whether they
        are ``proper``.
    has_noise
        Whether a ``prng_key`` statement was seen.
    traces_arrays
        Whether the arrays of the arguments were inputs.
    jaxpr
        Function of the key and these arrays that returns what the messages hold.
    positions
        Index of each tracer, by its ``id``, among the outputs of that function.
    arrays
        The arrays.
    """

    sites: dict[str, dict]
    has_noise: bool
    traces_arrays: bool
    jaxpr: ClosedJaxpr
    positions: dict[int, int]
    arrays: list[Array | np.ndarray]


def trace_model(rng_key: Array, model: Model, args: tuple, kwargs: dict) -> Tracing:
    """Trace a model at a point inside every support; nothing is run.

    Parameters
    ----------
    rng_key
        Key of all draws.
    model
        A NumPyro model.
    args, kwargs
        Arguments of the model.

    Raises
    ------
    ValueError
        If the model looks in Python at values that only exist when it runs.
    """
    arrays, static = split(args, kwargs)
    try:
        return _trace(rng_key, model, arrays, lambda arrays: join(arrays, static))
    except jax.errors.JAXTypeError as error:
        if not arrays:
            raise ValueError(LOOKS_AT_VALUES) from error
    try:
        # Perhaps it only looks at its arguments, and these are known.
        known = _trace(rng_key, model, [], lambda _: (args, kwargs))
    except jax.errors.JAXTypeError as error:
        raise ValueError(LOOKS_AT_VALUES) from error
    return known._replace(traces_arrays=False)


def _trace(
    rng_key: Array,
    model: Model,
    arrays: list[Array | np.ndarray],
    arguments: Callable[[list[Array]], tuple[tuple, dict]],
) -> Tracing:
    recorder = Sites()
    outputs: list[Tracer] = []

    def run(key: Array, arrays: list[Array]) -> list[Tracer]:
        args, kwargs = arguments(arrays)
        substitute, seed = handlers.substitute(substitute_fn=_start), handlers.seed(rng_seed=key)
        with handlers.block(), recorder, substitute, seed:
            model(*args, **kwargs)
        for site in recorder.trace.values():
            if is_parameter(site):
                # Not later: a support may be computed from the prior at the moment of asking.
                site |= {"support": site["fn"].support, "proper": _can_sample(site["fn"])}
        outputs[:] = _needed(recorder.trace)
        return outputs

    jaxpr = jax.make_jaxpr(run)(rng_key, arrays)
    positions = {id(leaf): index for index, leaf in enumerate(outputs)}
    return Tracing(recorder.trace, recorder.noise, True, jaxpr, positions, arrays)


def is_parameter(site: dict) -> bool:
    """Whether a site may be latent: drawn from a density, not observed, no simulator noise."""
    if site["type"] != "sample" or is_simulator(site) or is_replaced(site):
        return False
    return not (site["is_observed"] or isinstance(unwrap(site["fn"]), dist.Delta))


def unwrap(fn: Distribution) -> Distribution:
    """Return what an expanded, masked or independent distribution is made of."""
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def tracers(tree: Any) -> list[Tracer]:
    """Return the leaves that are not known."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Tracer)]


def _start(site: dict) -> Any:
    """Return a value inside the support for a site of the circuit that has none."""
    if site["type"] != "sample" or site["value"] is not None or not is_parameter(site):
        return None
    return init_to_uniform(site)


def _needed(sites: dict[str, dict]) -> list[Tracer]:
    """Return what may have to be known of messages, each once."""
    trees = []
    for site in sites.values():
        if site["type"] == "param":
            trees.append(site["value"])
        if is_behavior(site):
            trees.append(site["args"][1])
        if is_parameter(site):
            trees.append([site[part] for part in ("value", "fn", "support")])
    return list({id(leaf): leaf for leaf in tracers(trees)}.values())


def _can_sample(fn: Distribution) -> bool:
    try:
        jax.eval_shape(fn.sample, jax.random.key(0))
    except NotImplementedError:
        return False
    return True
