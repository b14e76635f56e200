"""Imports go one way along the line, heavy packages come late, and importing changes nothing."""

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "numpyro_dsn"
# Where it lies, not where Python finds it: the walk works on a package that cannot be imported.
ROOT = Path(__file__).parents[1] / PACKAGE

# The line: a room may import from rooms before it, and from itself. A room is a folder or a
# single file of the package; every one has its place here.
LINE = [
    "version",
    "status",
    "constraints",
    "primitives",
    "program",
    "guides",
    "weighted",
    "solver",
    "certificate",
    # A result offers `to_inference_data` and `save`, so the room that does both stands before it;
    # it takes a result as an argument and never imports its class.
    "inference_data",
    "fit",
    "programs",
    "result",
    "build",
    "dsn",
    "sensitivity",
    "baselines",
    "comparison",
    "plots",
]

# Rooms that may import less than their place allows: nothing of ours but these.
ONLY = {
    "constraints": set(),
    "weighted": set(),
    # They read data, whoever made it.
    "comparison": {"inference_data"},
    "plots": {"inference_data"},
}

# Rooms that may import no package but these and Python's own.
PACKAGES = {"weighted": {"jax", "numpy", PACKAGE}}

# Packages that are slow to import or not always there, and the only rooms that import them.
# They do so inside functions, so that `import numpyro_dsn` does not.
LATE = {
    "arviz": {"inference_data"},
    "blackjax": {"baselines"},
    "xarray": {"baselines", "inference_data"},
    "matplotlib": {"plots"},
}

MODULES = sorted(ROOT.rglob("*.py"))
PACKAGES_OF_MODULES = [path for path in MODULES if path.stem == "__init__"]


def room_of(dotted):
    """Return the room of a module such as ``numpyro_dsn.guides.flow``; "" for the package."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def dotted_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(tree, inside_functions=True):
    """Return the dotted names that a syntax tree imports, without those for type checkers."""
    names = []
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            names += imported(ast.Module(node.orelse, []), inside_functions)
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from numpyro_dsn import x` may import a module x.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if inside_functions or not is_function:
            names += imported(node, inside_functions)
    return names


def roots_imported(path):
    """Return the packages that a module imports, without Python's own."""
    names = imported(ast.parse(path.read_text()))
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


def rooms_imported(path):
    names = imported(ast.parse(path.read_text()))
    return {room_of(name) for name in names if name.split(".")[0] == PACKAGE}


def allowed(room):
    """Return the rooms from which a room may import."""
    if room == "":
        return set(LINE)
    if room in ONLY:
        return ONLY[room] | {room}
    return set(LINE[: LINE.index(room) + 1])


def module_of(name, modules):
    """Return the module that an imported name is, or is in; ``None`` if it is none of these."""
    parts = name.split(".")
    starts = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((start for start in starts if start in modules), None)


def circle_in(sources):
    """Return a circle of imports between modules, given their source by dotted name, or ``None``.

    A folder's ``__init__`` is a module too: what it imports must not import from the folder.
    """
    graph = {
        module: {module_of(name, sources) for name in imported(ast.parse(source))} - {None, module}
        for module, source in sources.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_every_module_has_its_place():
    rooms = {room_of(dotted_name(path)) for path in MODULES} - {""}
    assert len(LINE) == len(set(LINE))
    assert rooms <= set(LINE), "give the new room its place in LINE"


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_imports_go_one_way(path):
    wrong = rooms_imported(path) - allowed(room_of(dotted_name(path)))
    assert not wrong, f"{dotted_name(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("room", sorted({room_of(dotted_name(path)) for path in MODULES} - {""}))
def test_no_circle_inside_a_room(room):
    inside = [path for path in MODULES if room_of(dotted_name(path)) == room]
    circle = circle_in({dotted_name(path): path.read_text() for path in inside})
    assert circle is None, " -> ".join(circle)


@pytest.mark.parametrize("path", PACKAGES_OF_MODULES, ids=dotted_name)
def test_no_module_is_shadowed(path):
    """A function with the name of its module would hide whatever else the module holds."""
    names = imported(ast.parse(path.read_text()))
    here = {child.stem for child in path.parent.iterdir() if child in MODULES}
    here |= {child.name for child in path.parent.iterdir() if (child / "__init__.py").exists()}
    bound = {name.split(".")[-1] for name in names if name.rsplit(".", 1)[0] != dotted_name(path)}
    assert not bound & here


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_nothing_imports_the_circuits_or_the_tests(path):
    assert not roots_imported(path) & {"models", "tests"}


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_a_room_of_arrays_knows_no_probabilistic_program(path):
    given = PACKAGES.get(room_of(dotted_name(path)))
    assert given is None or roots_imported(path) <= given


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_slow_packages_are_imported_late_and_in_one_room(path):
    tree, room = ast.parse(path.read_text()), room_of(dotted_name(path))
    at_once = {name.split(".")[0] for name in imported(tree, inside_functions=False)}
    assert not at_once & set(LATE)
    anywhere = {name.split(".")[0] for name in imported(tree)}
    assert all(room in rooms for package, rooms in LATE.items() if package in anywhere)


def test_the_walk_finds_wrong_imports():
    source = """
from typing import TYPE_CHECKING
import numpyro_dsn.dsn
if TYPE_CHECKING:
    import arviz
else:
    import xarray
def function():
    from numpyro_dsn import result
    class Inner:
        import matplotlib.pyplot as plt
"""
    tree = ast.parse(source)
    late = ["numpyro_dsn.result", "matplotlib.pyplot"]
    at_once = ["typing.TYPE_CHECKING", "numpyro_dsn.dsn", "xarray"]
    assert imported(tree) == at_once + late
    assert imported(tree, inside_functions=False) == at_once
    assert "dsn" not in allowed("result")
    assert "result" not in allowed("inference_data")
    assert {"constraints", "guides"} <= allowed("solver")
    assert allowed("weighted") == {"weighted"}


def test_the_walk_finds_circles():
    assert circle_in({"a": "import a.b", "a.b": "from a.c import x", "a.c": "import numpy"}) is None
    through_init = {"a": "from a.b import x", "a.b": "def f():\n    from a import y"}
    assert set(circle_in(through_init)) == {"a", "a.b"}
    assert circle_in({"a.b": "from a import c", "a.c": "from a.b import x"}) is not None


LOOK = """
import json, os, sys, warnings
import jax, numpyro, numpyro.infer.autoguide, numpyro.optim, tqdm.auto  # have their own effects
def look():
    config = {name: str(value) for name, value in jax.config.values.items()}
    return [str(warnings.filters), config, dict(os.environ), str(jax.config.jax_enable_x64)]
before = look()
import numpyro_dsn
changed = [name for name, old, new in zip(
    ("filters", "config", "environment", "x64"), before, look(), strict=True) if old != new]
print(json.dumps({"changed": changed, "modules": sorted({n.split(".")[0] for n in sys.modules})}))
"""


def test_importing_the_package_is_light_and_changes_nothing():
    run = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    found = json.loads(run.stdout)
    assert found["changed"] == []
    assert PACKAGE in found["modules"]
    assert not set(LATE) & set(found["modules"])
