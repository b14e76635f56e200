"""Sensitive and degenerate directions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numpyro_dsn.plots.data import COLORS, require_axes, require_group

if TYPE_CHECKING:
    from numpy import ndarray

REMEDY = "Add it with `sensitivity.add_modes(data, modes, curvature(result, modes.values))`."


def plot_eigenvectors(
    data: Any, mode: int = 0, num_directions: int | None = None, axes: "ndarray | None" = None
) -> "ndarray":
    """Draw the eigenvectors of the Hessian at a mode as bars, with their eigenvalues.

    Parameters
    ----------
    data
        InferenceData or DataTree with a group ``sensitivity``, as ``sensitivity.add_modes`` gives.
    mode
        Which mode.
    num_directions
        Number of directions, the most sensitive first; all by default.
    axes
        One axis for each direction.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If the data has no group ``sensitivity``, or there is no such mode.

    References
    ----------
    The draft's Fig. 1D of its section on V1.
    """
    group = require_group(data, "sensitivity", REMEDY).isel(chain=0)
    num_modes = len(group["mode"])
    if not 0 <= mode < num_modes:
        raise ValueError(f"`mode` is {mode}, but the data has modes 0 to {num_modes - 1}.")
    labels = [str(label) for label in group["parameter"].values]
    vectors = np.asarray(group["eigenvector"])[mode][:num_directions]
    values = np.asarray(group["eigenvalue"])[mode][:num_directions]
    size = (1.5 + 0.45 * len(labels), 0.8 + 1.1 * len(values))
    axes = require_axes(axes, len(values), sharex=True, figsize=size)
    for k, (axis, vector, value) in enumerate(zip(axes, vectors, values, strict=True)):
        colors = [COLORS[0] if component >= 0 else COLORS[1] for component in vector]
        axis.bar(range(len(labels)), vector, color=colors)
        axis.axhline(0.0, color="black", lw=0.8)
        axis.set_ylim(-1.05, 1.05)
        axis.set_ylabel(f"$v_{{{k + 1}}}$")
        axis.set_title(f"eigenvalue {value:.3g}", fontsize="small")
    axes[-1].set_xticks(range(len(labels)), labels, rotation=90)
    return axes
