"""Modes and directions as a group of ArviZ data, for figures and files."""

from typing import Any

import numpy as np

from numpyro_dsn.inference_data import add_group, parameter_labels
from numpyro_dsn.sensitivity._curvature import Curvature
from numpyro_dsn.sensitivity.modes import Modes


def add_modes(data: Any, modes: Modes, at_modes: Curvature) -> Any:
    """Return the data with a group ``sensitivity``: modes, their mass and directions.

    Its only chain is the one that the fit holds: ArviZ joins groups along this dimension.

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
    at_mode = ["mode", "parameter"]
    of_modes = {
        "location": (at_mode, np.concatenate(values, axis=-1)),
        "log_q": (["mode"], modes.log_prob),
        "mass": (["mode"], modes.mass),
        "mass_se": (["mode"], modes.mass_se),
        "gradient": (at_mode, at_modes.gradient),
        "hessian": ([*at_mode, "other_parameter"], at_modes.hessian),
        "eigenvalue": (["mode", "direction"], at_modes.eigenvalues),
        "eigenvector": (["mode", "direction", "parameter"], at_modes.eigenvectors),
    }
    variables = {
        name: (["chain", *dims], np.asarray(value)[None])
        for name, (dims, value) in of_modes.items()
    }
    coords = {
        "chain": [int(data["posterior"].attrs["held_chain"])],
        "mode": np.arange(num_modes),
        "direction": np.arange(1, len(labels) + 1),
        "parameter": labels,
        "other_parameter": labels,
    }
    return add_group(data, "sensitivity", variables, coords)
