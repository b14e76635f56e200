"""How functions of the sites vary over draws, without the density."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.inference_data import element_label
from numpyro_dsn.sensitivity.coordinates import Sites

Function = str | Callable[[Sites], Array]
"""Name of a site, or a function of the sites of one draw."""


class Correlations(NamedTuple):
    """Pearson's correlations over draws.

    rows
        Labels of the parameters.
    columns
        Labels of the functions.
    values
        Correlations, shape ``(num_rows, num_columns)``; NaN where one of the two is constant.
    num_draws
        Number of draws that they rest on.
    """

    rows: list[str]
    columns: list[str]
    values: np.ndarray
    num_draws: int


def correlations(
    draws: Sites,
    parameters: Sequence[str],
    functions: Mapping[str, Function],
    given: Function | None = None,
    between: tuple[float, float] = (-np.inf, np.inf),
) -> Correlations:
    """Correlate parameters with statistics, or with any function of the sites.

    Parameters
    ----------
    draws
        Value of each site with one leading axis, such as ``result.get_samples()``.
    parameters
        Names of the sites in the rows; every element has a row.
    functions
        Name of a site, or a function of ``{site: value}`` of one draw, by the name of its columns.
    given
        What to condition on, a scalar: only draws are used for which it is ``between`` two values.
    between
        Smallest and largest value of what is ``given``.

    Raises
    ------
    ValueError
        If a site does not exist, what is given is no scalar, or fewer draws are left than there
        are parameters, or than three.
    """
    if given is not None:
        condition = _scalar(draws, given, "given")
        kept = (condition >= between[0]) & (condition <= between[1])
        draws = {name: value[kept] for name, value in draws.items()}
    rows = _columns({name: _evaluate(draws, name) for name in parameters})
    columns = _columns({name: _evaluate(draws, function) for name, function in functions.items()})
    num_draws = len(next(iter(draws.values())))
    if num_draws < max(len(rows), 3):
        raise ValueError(
            f"{num_draws} draws are left for {len(rows)} parameters; give more draws than "
            "parameters, or a wider range."
        )
    x, y = (_standardize(np.stack(list(table.values()))) for table in (rows, columns))
    return Correlations(list(rows), list(columns), x @ y.T / num_draws, num_draws)


def nearest(draws: Sites, function: Function, target: float = 0.0, num_draws: int = 1) -> Sites:
    """Return the draws whose value of a function is nearest to a target, the nearest first.

    Parameters
    ----------
    draws
        Value of each site with one leading axis, such as ``result.get_samples()``.
    function
        Name of a scalar site, or a function of ``{site: value}`` of one draw.
    target
        What it should be.
    num_draws
        Number of draws.

    Returns
    -------
    Value of each site with a leading axis ``num_draws``.

    Raises
    ------
    ValueError
        If the site does not exist, the function is no scalar, or there are too few draws.
    """
    distance = np.abs(_scalar(draws, function, "function") - target)
    if not 1 <= num_draws <= len(distance):
        raise ValueError(
            f"`num_draws` is {num_draws}, but there are {len(distance)} draws; ask for 1 to "
            f"{len(distance)} of them."
        )
    order = np.argsort(distance, kind="stable")[:num_draws]
    return {name: value[order] for name, value in draws.items()}


def _evaluate(draws: Sites, function: Function) -> Array:
    if not isinstance(function, str):
        return jax.vmap(function)(draws)
    if function not in draws:
        raise ValueError(f"'{function}' is no site of the draws; their sites are {sorted(draws)}.")
    return draws[function]


def _scalar(draws: Sites, function: Function, argument: str) -> np.ndarray:
    value = np.asarray(_evaluate(draws, function))
    if value.ndim != 1:
        raise ValueError(
            f"`{argument}` must be a scalar for each draw, but has shape {value.shape[1:]}; pick "
            "an element with a function of the sites."
        )
    return value


def _columns(values: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {
        element_label(name, index): np.asarray(value, float)[(slice(None), *index)]
        for name, value in values.items()
        for index in np.ndindex(*jnp.shape(value)[1:])
    }


def _standardize(rows: np.ndarray) -> np.ndarray:
    std = rows.std(1, keepdims=True)
    return (rows - rows.mean(1, keepdims=True)) / np.where(std > 0, std, np.nan)
