"""Imports go one way along the line, heavy packages come late, and importing changes nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import numpyro_dsn

PACKAGE = "numpyro_dsn"
ROOT = Path(numpyro_dsn.__file__).parent

# The line, left to right: a room may import from rooms in earlier rows, and from itself.
# A room is a module or a folder of the package; every one has its place here.
LINE = [
    ["labels", "soap", "trees", "version"],
    ["constraints"],
    ["primitives"],
    ["status"],
    ["program"],
    ["guides"],
    ["default_guide", "exponential_family", "gradients", "latents"],
    ["dual", "feasibility", "history", "multipliers", "pool"],
    ["objective"],
    ["epoch"],
    ["flow"],
    [
        "correction",
        "fit",
        "optim",
        "pareto",
        "path_loss",
        "prior_draws",
        "reweighting",
        "weighted_loss",
    ],
    ["measurement"],
    ["newton"],
    ["certificate"],
    ["persistence"],
    ["inference_data", "plots", "summary"],
    ["result"],
    ["compare_table", "wasserstein"],
    ["baselines", "compare"],
    ["sensitivity"],
    ["dsn"],
]

# Rooms that may import less than their place allows: nothing of ours but these.
ONLY = {
    "constraints": set(),
    "guides": set(),
    "multipliers": set(),
    "soap": set(),
    "plots": {"labels", "status"},
}

# Packages that are slow to import or not always there, and the only rooms that import them.
# They do so inside functions, so that `import numpyro_dsn` does not.
LATE = {
    "arviz": {"inference_data"},
    "blackjax": {"baselines"},
    "xarray": {"baselines", "inference_data"},
    "matplotlib": {"plots"},
}

MODULES = sorted(ROOT.rglob("*.py"))


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


def rooms_imported(path):
    names = imported(ast.parse(path.read_text()))
    return {room_of(name) for name in names if name.split(".")[0] == PACKAGE}


def allowed(room):
    """Return the rooms from which a room may import."""
    if room == "":
        return {earlier for row in LINE for earlier in row}
    if room in ONLY:
        return ONLY[room] | {room}
    place = next((index for index, row in enumerate(LINE) if room in row), 0)
    return {earlier for row in LINE[:place] for earlier in row} | {room}


def test_every_module_has_its_place():
    rooms = {room_of(dotted_name(path)) for path in MODULES} - {""}
    placed = [room for row in LINE for room in row]
    assert len(placed) == len(set(placed))
    assert rooms <= set(placed), "give the new module its place in LINE"


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_imports_go_one_way(path):
    wrong = rooms_imported(path) - allowed(room_of(dotted_name(path)))
    assert not wrong, f"{dotted_name(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=dotted_name)
def test_nothing_imports_the_circuits_or_the_tests(path):
    roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    assert not roots & {"models", "tests"}


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
    assert "guides" not in allowed("constraints")
    assert "constraints" not in allowed("guides")
    assert allowed("multipliers") == {"multipliers"}


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
