"""How the house is built: private names in one place, imports downwards, nothing too long."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.default_backend

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_hoyer"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the roof to the ground: what stands in one line imports only from those below.
ROOMS = (
    "cli",
    "callbacks",
    "recalibration",
    "pruning",
    "trials",
    "exporters",
    "attach",
    "reports",
    "collapse",
    "targets",
    "units",
    "scores",
    "criteria",
    "schedules",
    "regularizers.coupled",
    "graph",
    "regularizers",
    "glm",
    "proximal",
    "patterns",
    "masks",
    "kept",
    "weights",
    "plain",
    "measures",
    "_inputs",
    "_precision",
    "_data",
    "_values",
    "_literals",
    "_packing",
    "pages",
    "_progress",
    "_destination",
    "_tables",
    "_keras",
    "_checks",
    "_extras",
)

# The front door, through which everything can be seen.
DOOR = {"__init__", "__main__", "_public"}

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 40


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path):
    return ast.parse(path.read_text())


@pytest.fixture(scope="module")
def private_to_keras():
    """The private names that objects of Keras have."""
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Dense(1)(x))
    model.compile("adam")
    things = [model, model.optimizer, model.layers[1], model.layers[1].kernel, x]
    things += [keras.Layer(), keras.dtype_policies.DTypePolicy("float32")]
    things += [keras.layers.MultiHeadAttention(1, 2), keras.layers.LSTM(1), keras.Sequential()]
    names = {name for thing in things for name in dir(thing)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def touched(tree, private_to_keras):
    """The private names that a module reads, or sets, on what is not its own."""
    own = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            own.add(node.attr)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
    own -= private_to_keras
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src"):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("keras.src")}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if ast.unparse(node).startswith("keras.src"):
                found.add(ast.unparse(node))
            if ast.unparse(node.value) not in ("self", "cls", "sys") and node.attr not in own:
                found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
            "delattr",
        ):
            name = node.args[1]
            found |= {text for text in strings_in(name) if is_private(text) and text not in own}
        elif isinstance(node, ast.ClassDef) and any("keras." in ast.unparse(b) for b in node.bases):
            found |= {
                inner.attr
                for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute)
                and ast.unparse(inner.value) == "self"
                and inner.attr in private_to_keras
            }
    return found


def strings_in(node):
    """The text of a string, or what an f-string begins with."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0] if node.values else node
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_private_names_of_keras_stand_in_one_module(private_to_keras):
    found = {name_of(path): touched(tree_of(path), private_to_keras) for path in MODULES}
    assert found.pop("_keras.py")
    wrong = {name: names for name, names in found.items() if names}
    assert not wrong, "move these into `_keras.py`, one small function each"


def test_each_private_name_has_a_test():
    tests = (ROOT / "tests" / "test_private_keras.py").read_text()
    functions = [
        node.name
        for node in tree_of(PACKAGE / "_keras.py").body
        if isinstance(node, ast.FunctionDef) and not is_private(node.name)
    ]
    assert [name for name in functions if f"_keras.{name}" not in tests] == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("model._layers", {"_layers"}),
        ("def f(x): return x.y._inbound_nodes[0]", {"_inbound_nodes"}),
        ("getattr(model, '_inputs_struct', None)", {"_inputs_struct"}),
        ("hasattr(layer, f'_{name}_constraint')", {"_"}),
        ("from keras.src.ops import nn", {"keras.src.ops"}),
        ("import keras.src.ops", {"keras.src.ops"}),
        ("class P(keras.Layer):\n def f(self): return self._path", {"_path"}),
        ("class P:\n def f(self, other): self._mine = other._mine", set()),
        ("class P:\n def f(self, other): self._layers = other._layers", {"_layers"}),
        ("sys._getframe(1)", set()),
    ],
)
def test_what_counts_as_touching_a_private_name(code, names, private_to_keras):
    assert touched(ast.parse(code), private_to_keras) == names


def imported(path):
    """The modules of the package that a module imports, wherever in it the import stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("keras_hoyer."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_hoyer"):
            names = [alias.name for alias in node.names]
            modules = [f"{node.module}.{name}" for name in names]
            # From the package come its modules, and `__version__`.
            if node.module == "keras_hoyer":
                yield from (m for m, name in zip(modules, names, strict=True) if name[0] != "_")
            yield from modules if node.module != "keras_hoyer" else ()


def room_of(module):
    """The longest of the rooms' names that a module's name begins with."""
    name = module.removeprefix("keras_hoyer.")
    rooms = [room for room in ROOMS if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def test_imports_run_downwards():
    wrong = []
    for path in MODULES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.parent == PACKAGE and path.stem in DOOR:
            continue
        room = room_of(module)
        assert room, f"{module} has no room yet: give it a line in `ROOMS`"
        for name in imported(path):
            other = room_of(name)
            assert other, f"{module} imports {name}, which has no room"
            if ROOMS.index(other) < ROOMS.index(room):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_files_are_short_or_say_why_in_their_first_line():
    long = {
        name_of(path)
        for path in MODULES
        if len(lines := path.read_text().splitlines()) > MOST_LINES
        and not re.match(r"# Long, (because|since|as) ", lines[0])
    }
    assert not long


def test_functions_are_short():
    long = {
        f"{name_of(path)} {node.name}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and length_of(node) > MOST_LINES_OF_A_FUNCTION
    }
    assert not long


def length_of(function):
    """The lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function):
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def test_the_package_is_imported_without_any_private_module_of_keras():
    code = (
        "import builtins, keras\n"
        "real = builtins.__import__\n"
        "def guarded(name, globals=None, *rest):\n"
        "    caller = (globals or {}).get('__file__') or ''\n"
        "    if name.startswith('keras.src') and 'keras_hoyer' in caller:\n"
        "        raise ImportError(f'{caller} imports {name}')\n"
        "    return real(name, globals, *rest)\n"
        "builtins.__import__ = guarded\n"
        "import keras_hoyer\n"
        "for name in keras_hoyer.__all__: getattr(keras_hoyer, name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
