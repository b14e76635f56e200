"""Configuration of Sphinx."""

import os
from pathlib import Path

from jax.typing import ArrayLike
from sphinx.util.typing import stringify_annotation

from numpyro_dsn import __version__

project = "numpyro_dsn"
author = "The numpyro_dsn developers"
copyright = author
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "sphinx_book_theme"
html_title = project

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 2

# Pages with code cells run at every build and may import the circuits in models/.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_attr_annotations = False
napoleon_google_docstring = False
# "Returns" holds prose; napoleon would take each of its lines for a type.
napoleon_custom_sections = ["Returns"]


def skip_tuple_fields(app, what, name, obj, skip, options):
    """Leave out the fields of a NamedTuple, which its docstring describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def name_array_like(app, what, name, obj, options, signature, returned):
    """Write ArrayLike, which is an alias, in place of the eight types that it stands for."""
    expanded = stringify_annotation(ArrayLike, "smart")
    return (signature or "").replace(expanded, "ArrayLike") or None, returned


def setup(app):
    """Connect to autodoc."""
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("autodoc-process-signature", name_array_like)
