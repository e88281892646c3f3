"""What `import keras_hoyer` gives, and what it takes."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_hoyer as kh
from keras_hoyer import _public, exporters

ROOT = Path(__file__).parent.parent


def test_tab_shows_the_public_names_alone():
    assert dir(kh) == sorted([*kh.__all__, "__version__"])
    made = {name for name in vars(_public) if not name.startswith("_")}
    assert made == set(kh.__all__)
    assert all(getattr(kh, name) is getattr(_public, name) for name in made)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("criteria", inspect.isclass),
        ("measures", inspect.isfunction),
        ("patterns", inspect.isclass),
        ("schedules", inspect.isclass),
        ("scores", inspect.isclass),
    ],
)
def test_tab_in_a_module_shows_what_is_made_in_it_for_users(name, kind):
    module = getattr(kh, name)
    made = {
        key
        for key, value in vars(module).items()
        if kind(value) and f"{value.__module__}.".startswith(f"{module.__name__}.")
        if not key.startswith("_")
    }
    # What a score is given stands beside it.
    made |= {"Weight"} if name == "scores" else set()
    assert set(dir(module)) == set(module.__all__) == made


def test_tab_shows_the_callbacks():
    assert dir(kh.callbacks) == [
        *("ADMM", "ActivationSparsity", "BudgetPruning", "ProximalStep", "Pruning"),
        "SparsityLogger",
    ]


def test_inner_modules_can_be_imported_and_wrong_names_are_errors():
    name = "no_such_name"
    import keras_hoyer.callbacks.pruning
    import keras_hoyer.masks

    assert keras_hoyer.callbacks.pruning.Pruning is kh.callbacks.Pruning
    for module in (kh, exporters):
        with pytest.raises(AttributeError, match="no_such_name"):
            getattr(module, name)
    assert all(getattr(exporters, name) for name in exporters.__all__)


def test_importing_the_package_registers_its_classes_and_imports_little_more_than_keras():
    code = (
        "import sys, keras\n"
        "before = set(sys.modules)\n"
        "import keras_hoyer\n"
        "assert keras.saving.get_registered_object('keras_hoyer>KeepZeros')\n"
        "assert keras.saving.get_registered_object('keras_hoyer>HoyerSquare')\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["keras_hoyer"], done.stderr
