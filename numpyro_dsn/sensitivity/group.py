"""Modes and directions as a group of ArviZ data, for figures and files."""

from typing import Any

import numpy as np

from numpyro_dsn.inference_data import add_group, parameter_labels
from numpyro_dsn.sensitivity._curvature import Curvature
from numpyro_dsn.sensitivity.modes import Modes


def add_modes(data: Any, modes: Modes, at_modes: Curvature) -> Any:
    """Return the data with a group ``sensitivity``: modes, their mass and directions.

    Parameters
    ----------
    data
        InferenceData or DataTree of a fit; it stays as it is.
    modes
        Modes of the fit.
    at_modes
        Curvature at the modes, ``curvature(result, modes.values)``.

    Raises
    ------
    ValueError
        If the curvature is not that of as many points as there are modes.
    """
    num_modes, labels = len(modes.mass), parameter_labels(data, list(modes.values))
    if at_modes.gradient.shape != (num_modes, len(labels)):
        raise ValueError(
            f"The curvature has the shape {at_modes.gradient.shape} for {num_modes} modes of "
            f"{len(labels)} parameters; give `curvature(result, modes.values)`."
        )
    values = [np.reshape(modes.values[name], (num_modes, -1)) for name in modes.values]
    one, two = ["mode"], ["mode", "parameter"]
    variables = {
        "location": (two, np.concatenate(values, axis=-1)),
        "log_q": (one, modes.log_prob),
        "mass": (one, modes.mass),
        "mass_se": (one, modes.mass_se),
        "gradient": (two, at_modes.gradient),
        "hessian": (["mode", "parameter", "other_parameter"], at_modes.hessian),
        "eigenvalue": (["mode", "direction"], at_modes.eigenvalues),
        "eigenvector": (["mode", "direction", "parameter"], at_modes.eigenvectors),
    }
    coords = {
        "mode": np.arange(num_modes),
        "direction": np.arange(1, len(labels) + 1),
        "parameter": labels,
        "other_parameter": labels,
    }
    return add_group(data, "sensitivity", variables, coords)
