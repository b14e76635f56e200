"""The few numbers in a model's messages that are needed, and what depends on the key."""

import itertools
from typing import Any

import jax
from jax import Array
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from numpyro_dsn.program.tracing import Tracing, is_parameter, tracers


def latent_sites(tracing: Tracing) -> dict[str, dict]:
    """Return the messages of the sites whose value changes with the key, by name.

    Others are held, for instance by ``numpyro.handlers.substitute``.
    """
    return {
        name: site
        for name, site in tracing.sites.items()
        if is_parameter(site) and varies(tracing, site["value"])
    }


def varies(tracing: Tracing, tree: Any) -> bool:
    """Whether something in a message changes with the key."""
    return any(_depends_on_key(tracing, leaf) for leaf in tracers(tree))


def constant(tracing: Tracing, tree: Any) -> Any:
    """Return something in a message without what changes with the key: a shape in its place."""

    def blank(leaf: Any) -> Any:
        changes = isinstance(leaf, Tracer) and _depends_on_key(tracing, leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if changes else leaf

    return jax.tree.map(blank, tree) if tracers(tree) else tree


def compute(tracing: Tracing, parts: list[dict[str, Any]], rng_key: Array) -> list[dict[str, Any]]:
    """Return parts of messages, each by name, with numbers in place of tracers.

    One small program is compiled, and none if there are no tracers: what these numbers do not
    depend on, such as the simulator, is no part of it.
    """
    chosen = sorted({tracing.positions[id(leaf)] for leaf in tracers(parts)})
    if not chosen:
        return parts
    reduced, used = _reduce(tracing, chosen)
    program = jax.jit(jaxpr_as_fun(ClosedJaxpr(reduced, tracing.jaxpr.consts)))
    inputs = itertools.compress([rng_key, *tracing.arrays], used)
    numbers = dict(zip(chosen, jax.device_get(program(*inputs)), strict=True))

    def fill(leaf: Any) -> Any:
        return numbers[tracing.positions[id(leaf)]] if isinstance(leaf, Tracer) else leaf

    # Name by name: JAX would sort them.
    return [{name: jax.tree.map(fill, tree) for name, tree in part.items()} for part in parts]


def _depends_on_key(tracing: Tracing, leaf: Tracer) -> bool:
    return _reduce(tracing, [tracing.positions[id(leaf)]])[1][0]


def _reduce(tracing: Tracing, chosen: list[int]) -> tuple[Jaxpr, list[bool]]:
    """Return the function of a few outputs alone, and which inputs it has."""
    jaxpr = tracing.jaxpr.jaxpr
    needed = set(filter(_is_variable, (jaxpr.outvars[index] for index in chosen)))
    equations = []
    # JAX's own elimination keeps calls of the host for their effects; here none may happen.
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            equations.append(equation)
            needed.update(filter(_is_variable, equation.invars))
    used = [index in chosen for index in range(len(jaxpr.outvars))]
    return dce_jaxpr(jaxpr.replace(eqns=equations[::-1]), used)


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, Literal)
