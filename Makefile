# Two commands from a fresh clone: `make demo` shows the product, `make test` runs every check.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
NATIVE = find $(wildcard plugins tests examples bench) \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \)
READY = $(VENV)/ready

.PHONY: demo test test-long lint format wheel clean gpu-check

demo: $(READY)
	$(BIN)/python -m adapter_bench.demo demo

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

# With every case of the sweeps of which `make test` runs a few.
test-long: lint
	$(BIN)/python -m pytest -n auto --dist loadfile -m ""

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(NATIVE) | xargs $(BIN)/clang-format --dry-run --Werror

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(NATIVE) | xargs $(BIN)/clang-format -i

wheel: $(READY)
	$(BIN)/python -m build --wheel

# TensorRT's headers, and a builder and parser that run without a GPU. Their declared dependencies are not needed. Where
# there are no such wheels, the tests that want them are skipped and say so.
TENSORRT = kernel-lens tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings

$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt --no-deps $(TENSORRT) || echo "make: going on without $(TENSORRT)"
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info plugins/adapter_plugins/lib

# On a machine with an NVIDIA GPU: builds, checks and times the kernels with the Python at hand; installs nothing.
gpu-check:
	PYTHONPATH=.:plugins:export:engines:bench:tests:$$PYTHONPATH $(PYTHON) -m adapter_bench.gpu_check --out bench/reports $(GPU_CHECK)
