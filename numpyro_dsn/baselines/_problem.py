"""What every engine is given: a model and a behavior after they were read, or a fit of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from numpyro_dsn.program import Behavior, Model, Program, read
from numpyro_dsn.result import DSNResult


class Problem(NamedTuple):
    """A model, its behavior and its arguments.

    program
        The model and the behavior after they were read.
    args, kwargs
        Arguments of the model.
    natural_parameters
        eta of T, shape ``(num_constraints,)``; ``None`` if unknown. Only the engines that sample
        the tilted model need it.
    """

    program: Program
    args: tuple
    kwargs: dict
    natural_parameters: Array | None


def problem(
    model: Model,
    behavior: Behavior | None = None,
    *args: Any,
    natural_parameters: Mapping[str, float] | ArrayLike | None = None,
    **kwargs: Any,
) -> Problem:
    """Read a model and a behavior for the engines, without a fit.

    Parameters
    ----------
    model
        A NumPyro model.
    behavior
        A callable, a dict, or ``None`` if the model states its behavior.
    args, kwargs
        Arguments of the model.
    natural_parameters
        eta of T, in nats per unit of T: by label, as in ``Certificate.natural_parameters``, or of
        shape ``(num_constraints,)``.

    Raises
    ------
    ValueError
        If the model or the behavior cannot be meant, or eta is not one finite number for each
        constraint.
    """
    program = read(jax.random.key(0), model, behavior, args, kwargs)
    eta = None
    if natural_parameters is not None:
        eta = _as_vector(natural_parameters, program.labels)
    return Problem(program, args, kwargs, eta)


def as_problem(source: Problem | DSNResult) -> Problem:
    """Return the problem of a fit, or the problem itself.

    Raises
    ------
    TypeError
        If the source is neither.
    """
    if isinstance(source, Problem):
        return source
    if isinstance(source, DSNResult):
        return Problem(source.fit.program, source.fit.args, source.fit.kwargs, None)
    raise TypeError(
        "An engine takes a `DSNResult` or `baselines.problem(model, behavior)`, but got "
        f"{source!r}."
    )


def as_tilted_problem(source: Problem | DSNResult) -> Problem:
    """Return the problem with the natural parameters of its tilted model.

    Raises
    ------
    ValueError
        If nobody knows them: the fit has no certificate, or none were given.
    """
    found = as_problem(source)
    if isinstance(source, DSNResult):
        return found._replace(natural_parameters=_certified(source))
    if found.natural_parameters is None:
        raise ValueError(
            "The tilted model needs natural parameters, but the problem has none; pass a fit, or "
            "`problem(..., natural_parameters=result.certificate.natural_parameters)`."
        )
    return found


def _certified(result: DSNResult) -> Array:
    """Return the natural parameters of a fit's certificate."""
    try:
        certificate = result.certificate
    except NotImplementedError as error:
        raise ValueError(
            "The tilted model needs the natural parameters of the fit's certificate, and this fit "
            "has none: the flow of its guide has no inverse. Fit with `AutoRealNVP`, or give "
            "`problem(..., natural_parameters=...)`."
        ) from error
    eta = np.asarray(list(certificate.natural_parameters.values()))
    if not np.all(np.isfinite(eta)):
        raise ValueError(
            "The tilted model needs the natural parameters of the fit's certificate, and this fit "
            f"has none: they are {certificate.natural_parameters}, and the run ended with "
            f"{result.status.name}. Fit again, or give `problem(..., natural_parameters=...)`."
        )
    return jnp.asarray(eta)


def _as_vector(given: Mapping[str, float] | ArrayLike, labels: list[str]) -> Array:
    if isinstance(given, Mapping):
        if set(given) != set(labels):
            raise ValueError(
                f"`natural_parameters` names {sorted(given)}; give one number for each of {labels}."
            )
        return _as_vector(np.array([given[label] for label in labels]), labels)
    eta = jnp.asarray(given, dtype=float)
    if eta.shape != (len(labels),) or not bool(jnp.all(jnp.isfinite(eta))):
        raise ValueError(
            f"`natural_parameters` is {eta.tolist()}; give one finite number for each of {labels}."
        )
    return eta
