# make demo   from a dense to a sparse model and a checked file, on scikit-learn's digits
# make test   lint and tests; KERAS_BACKEND=jax or torch chooses another backend
# make lint   ruff and mypy alone
# make suite  the tests alone; PYTEST_ARGS="-k shrink" chooses some
# make docs   the documentation as a site, built strictly into out/site

PYTHON ?= python3
VENV ?= .venv
KERAS_BACKEND ?= tensorflow
EXTRAS ?= test,onnx,safetensors,scipy
EXTRAS_jax = ,jax
EXTRAS_torch = ,torch
export KERAS_BACKEND
export TF_CPP_MIN_LOG_LEVEL ?= 2
# One test a core: PyTorch's threads of one would only wait for those of the other.
suite: export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint suite docs clean

demo: $(VENV)/examples.done
	KERAS_BACKEND=tensorflow $(VENV)/bin/python examples/digits.py

test: lint suite

lint: $(VENV)/$(KERAS_BACKEND).done
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

suite: $(VENV)/$(KERAS_BACKEND).done
	$(VENV)/bin/python -m pytest -n auto $(PYTEST_ARGS)

docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip

$(VENV)/examples.done: pyproject.toml $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable ".[examples]"
	touch $@

$(VENV)/docs.done: pyproject.toml $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/%.done: pyproject.toml $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable ".[$(EXTRAS)$(EXTRAS_$*)]"
	touch $@

clean:
	rm -rf $(VENV) out build *.egg-info
