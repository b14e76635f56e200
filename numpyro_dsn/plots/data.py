"""What figures read from the data: draws by label, targets, and matplotlib itself."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from numpyro_dsn.inference_data.labels import element_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORMAP = "viridis"

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colors, which color-blind readers can tell apart."""

HALF_WIDTH = 3.5
"""Inches; a figure of this width fits half a page."""


class Column(NamedTuple):
    """Draws of one scalar element of a variable.

    label
        Name and coordinates of the element.
    axis_label
        The same with the unit, where the variable has the attribute ``units``.
    draws
        All chains one after the other, shape ``(num_draws,)``.
    """

    label: str
    axis_label: str
    draws: np.ndarray


class Target(NamedTuple):
    """What was asked of the mean and the variance of an element; NaN where nothing was.

    lower, upper
        Bounds on the mean, equal for equalities.
    std
        Standard deviation.
    """

    lower: float
    upper: float
    std: float


def names_of(data: Any, kind: str) -> list[str]:
    """Return the names of the ``latents`` or the ``behaviors`` of a fit."""
    return json.loads(data["posterior"].attrs[kind])


def columns(data: Any, var_names: list[str], group: str = "posterior") -> list[Column]:
    """Return the draws of each scalar element of variables.

    Raises
    ------
    ValueError
        If a name is no variable of the group.
    """
    posterior, found = require_group(data, group), []
    for name in var_names:
        if name not in posterior.data_vars:
            raise ValueError(
                f"'{name}' is no variable of the {group}; its variables are "
                f"{sorted(posterior.data_vars)}."
            )
        variable = posterior[name]
        coords = [variable[dim].values for dim in variable.dims[2:]]
        for index in np.ndindex(*variable.shape[2:]):
            at = [str(values[i]) for values, i in zip(coords, index, strict=True)]
            label = element_label(name, at)
            draws = np.asarray(variable[(..., *index)]).ravel()
            found.append(Column(label, with_units(label, variable), draws))
    return found


def target_of(data: Any, name: str, index: tuple[int, ...]) -> Target:
    """Return what was asked of an element of a behavior."""
    bounds = data["constant_data"]
    labels = [str(label) for label in bounds["statistic"].values]
    element = element_label(name, index)

    def bound(kind: str, side: str) -> float:
        label = f"{kind}[{element}]"
        return float(bounds[side][labels.index(label)]) if label in labels else np.nan

    covariance = element_label("cov", [element_label(name, [*index, *index])])
    variance = bound("var", "upper")
    if covariance in labels:
        variance = float(bounds["upper"][labels.index(covariance)])
    return Target(bound("mean", "lower"), bound("mean", "upper"), variance**0.5)


def log_density(data: Any) -> np.ndarray:
    """Return log q of all draws, one chain after the other, in nats."""
    return np.asarray(require_group(data, "sample_stats")["log_q"]).ravel()


def require_group(data: Any, name: str, remedy: str = "") -> Any:
    """Return a group, or raise a ``ValueError`` that says how to make it."""
    try:
        return data[name]
    except (KeyError, AttributeError):
        message = f"The data has no group '{name}'. {remedy}"
        raise ValueError(message.strip()) from None


def require_fits(fits: Mapping[str, Any]) -> None:
    """Raise unless there is one fit at least."""
    if not isinstance(fits, dict) or not fits:
        raise ValueError("`fits` must be data by name, such as {'5 Hz': data, '10 Hz': other}.")


def with_units(label: str, variable: Any) -> str:
    """Return a label with the unit of the variable, if it has one."""
    units = variable.attrs.get("units")
    return f"{label} ({units})" if units else label


def require_axes(axes: Any, num_axes: int, **layout: Any) -> "np.ndarray":
    """Return given axes as an array, or new ones in a column.

    Raises
    ------
    ValueError
        If there are not as many axes as panels.
    """
    if axes is None:
        return pyplot().subplots(num_axes, 1, squeeze=False, layout="constrained", **layout)[1][
            :, 0
        ]
    given = np.atleast_1d(np.asarray(axes, dtype=object))
    if given.size != num_axes:
        raise ValueError(f"`axes` has {given.size} axes, but there are {num_axes} panels.")
    return given if given.ndim == 1 else given.ravel()


def color_bar(drawn: Any, axes: "list[Axes]") -> None:
    """Draw the scale of the log density beside axes."""
    drawn.figure.colorbar(drawn, ax=axes, label="log density (nats)", shrink=0.6)


def pyplot() -> Any:
    """Import matplotlib, or raise an ``ImportError`` that names the extra."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Figures need matplotlib: `pip install numpyro-dsn[plots]`.") from error
    return plt
