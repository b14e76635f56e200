"""Labels of the elements of arrays, the same in tables, figures and data."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def element_label(name: str, at: Sequence[object]) -> str:
    """Return ``name`` for a scalar, ``name[i,j]`` for an element of an array.

    Parameters
    ----------
    name
        Name of the variable.
    at
        Index or coordinate of the element along each dimension.
    """
    return f"{name}[{','.join(map(str, at))}]" if len(at) else name


def parameter_labels(data: Any, names: Sequence[str]) -> list[str]:
    """Return one label for each element of variables of the posterior, with its coordinates.

    Parameters
    ----------
    data
        ``InferenceData`` or ``xarray.DataTree``.
    names
        Names of the variables, each with the dimensions ``chain`` and ``draw`` first.
    """
    labels = []
    for name in names:
        variable = data["posterior"][name]
        coords = [variable[dim].values for dim in variable.dims[2:]]
        for index in np.ndindex(*variable.shape[2:]):
            at = [str(values[i]) for values, i in zip(coords, index, strict=True)]
            labels.append(element_label(name, at))
    return labels
