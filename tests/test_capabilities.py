"""Nobody asks for the class of a pattern, score, criterion or schedule, but for what it can do."""

import ast
from pathlib import Path

import pytest

import keras_hoyer
import keras_hoyer.units

PACKAGE = Path(keras_hoyer.__file__).parent
HOMES = ("patterns", "scores", "criteria", "schedules", "units")
BASES = {"Pattern", "Score", "Criterion", "Schedule", "Value"}


def classes_of(home: str) -> set[str]:
    """The classes made in a module or folder."""
    files = [PACKAGE / f"{home}.py", *PACKAGE.glob(f"{home}/*.py")]
    trees = [ast.parse(file.read_text()) for file in files if file.exists()]
    return {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}


def types_in_tests(tree: ast.AST) -> set[str]:
    """Names that types are compared with: in isinstance, issubclass, `type(x) is`, `case X():`."""
    found = set()
    for node in ast.walk(tree):
        inside = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            inside = node.args[1:]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            calls = [side for side in sides if isinstance(side, ast.Call)]
            if any(getattr(call.func, "id", "") == "type" for call in calls):
                inside = sides
        elif isinstance(node, ast.MatchClass):
            inside = [node.cls]
        for part in inside:
            # `keras.layers.Activation` is another one than `scores.Activation`.
            names = [n for n in ast.walk(part) if not ast.unparse(n).startswith("keras.")]
            found |= {getattr(n, "id", getattr(n, "attr", "")) for n in names}
    return found


def test_the_search_finds_what_it_looks_for():
    assert {"Channel", "NByM", "Block"} <= classes_of("patterns")
    assert {"TargetFlops", "UnitScores"} <= classes_of("criteria")
    code = "isinstance(p, (a.Channel, NByM)), type(p) is Block\nmatch p:\n    case Row(): pass"
    assert {"Channel", "NByM", "Block", "Row"} <= types_in_tests(ast.parse(code))


@pytest.mark.parametrize("home", HOMES)
def test_types_are_tested_in_their_own_file_alone(home):
    own = classes_of(home) - BASES
    for file in PACKAGE.rglob("*.py"):
        if home not in file.relative_to(PACKAGE).with_suffix("").parts:
            tested = types_in_tests(ast.parse(file.read_text())) & own
            assert not tested, f"{file} asks for the class {tested}"
