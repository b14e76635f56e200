"""Labels of the elements of arrays, the same in tables, figures and data."""

from collections.abc import Sequence


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
