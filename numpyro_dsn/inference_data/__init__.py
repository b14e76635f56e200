"""A fit as data: the groups of ArviZ, and arrays on disk.

The only room that imports arviz, and only when data is made: arviz is slow to import.
"""

from numpyro_dsn.inference_data.container import add_group, to_container
from numpyro_dsn.inference_data.conversion import from_result
from numpyro_dsn.inference_data.labels import element_label, parameter_labels
from numpyro_dsn.inference_data.saving import load_arrays, save_arrays
from numpyro_dsn.inference_data.sites import Coords, Dims, sites_dataset

__all__ = [
    "Coords",
    "Dims",
    "add_group",
    "element_label",
    "from_result",
    "load_arrays",
    "parameter_labels",
    "save_arrays",
    "sites_dataset",
    "to_container",
]
