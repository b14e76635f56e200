"""A fit on disk: arrays by name in an ``.npz`` file, without pickled code."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_dsn.version import __version__

FINGERPRINT = "fingerprint"


def save_arrays(path: str | Path, tree: Any, fingerprint: dict[str, Any]) -> None:
    """Write a pytree of arrays and what it belongs to.

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    tree
        Arrays, numbers and random keys.
    fingerprint
        What the arrays belong to, in terms of JSON.
    """
    path = Path(path)
    arrays: dict[str, Any] = {name: _to_numpy(leaf) for name, leaf in _named_leaves(tree)}
    # `savez` would pickle these; older versions of NumPy cannot be told not to.
    objects = [name for name, array in arrays.items() if array.dtype == object]
    if objects:
        raise ValueError(f"Object arrays cannot be saved, but {objects} are; keep numbers only.")
    meta = json.dumps({"version": __version__, **fingerprint})
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        np.savez(file, **(arrays | {FINGERPRINT: np.array(meta)}))
    unfinished.replace(path)


def load_arrays(path: str | Path, template: Any, fingerprint: dict[str, Any]) -> Any:
    """Read a pytree of arrays written by :func:`save_arrays`.

    Parameters
    ----------
    path
        File to read.
    template
        A pytree of the structure that is expected. Leaves under the field ``history`` may have
        any length; all others must have the shape of the template's.
    fingerprint
        What the arrays should belong to.

    Returns
    -------
    A pytree of the template's structure.

    Raises
    ------
    ValueError
        If the file was saved from another model, behavior, guide, optimizer or number of chains.
    """
    with np.load(Path(path), allow_pickle=False) as file:
        saved = json.loads(str(file[FINGERPRINT]))
        for key, expected in fingerprint.items():
            if saved.get(key) != expected:
                raise ValueError(
                    f"'{path}' was saved from a fit with {key} = {saved.get(key)}, but this DSN "
                    f"has {key} = {expected}; load it with the DSN it came from."
                )
        leaves, named = [], _named_leaves(template)
        surplus = set(file.files) - {FINGERPRINT} - {name for name, _ in named}
        if surplus:
            raise ValueError(
                f"'{path}' holds `{min(surplus)}`, which this DSN does not have; load it with a "
                "DSN of the same guide, optimizer and settings."
            )
        for name, leaf in named:
            if name not in file or (
                ".history" not in name and file[name].shape != _to_numpy(leaf).shape
            ):
                raise ValueError(
                    f"'{path}' does not hold `{name}` as this DSN needs it; load it with a DSN of "
                    "the same guide, optimizer and settings."
                )
            leaves.append(_from_numpy(file[name], leaf))
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return array if isinstance(like, np.ndarray) else jnp.asarray(array, jnp.result_type(like))
