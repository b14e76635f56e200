"""What the installed ArviZ keeps groups in; the only file that imports arviz, which is slow."""

from importlib.metadata import version
from typing import Any

from numpyro_dsn.version import __version__


def to_container(groups: dict[str, Any], attrs: dict[str, Any]) -> Any:
    """Put groups of ``xarray.Dataset`` into what the installed ArviZ uses.

    Parameters
    ----------
    groups
        Datasets by group name.
    attrs
        Numbers and strings, written to the container and to every group.

    Returns
    -------
    ``InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x).
    """
    import arviz
    import xarray

    attrs = {
        "inference_library": "numpyro_dsn",
        "inference_library_version": __version__,
        "numpyro_version": version("numpyro"),
        "jax_version": version("jax"),
        **attrs,
    }
    groups = {name: dataset.assign_attrs(attrs) for name, dataset in groups.items()}
    # ArviZ 1.x also has the name `InferenceData`, as a deprecated alias: ask for the version.
    if int(arviz.__version__.split(".")[0]) >= 1:
        tree = xarray.DataTree.from_dict(groups)
        tree.attrs = attrs
        return tree
    return arviz.InferenceData(attrs=attrs, warn_on_custom_groups=False, **groups)


def add_group(data: Any, name: str, variables: dict[str, Any], coords: dict[str, Any]) -> Any:
    """Return a copy of ArviZ data with one more group, or with another one of that name.

    Parameters
    ----------
    data
        ``InferenceData`` or ``xarray.DataTree``.
    name
        Name of the group.
    variables
        Dimension names and values by variable.
    coords
        Coordinate values by dimension.
    """
    import xarray

    dataset = xarray.Dataset(variables, coords=coords).assign_attrs(data.attrs)
    copied = data.copy()
    if isinstance(copied, xarray.DataTree):
        copied[name] = xarray.DataTree(dataset)
        return copied
    if name in copied.groups():
        del copied[name]
    copied.add_groups({name: dataset}, warn_on_custom_groups=False)
    return copied
