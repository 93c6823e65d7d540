# Everything a person or CI does here:
#   make demo    train a small model on the CPU, sample from it, write the pictures
#   make test    the tests
#   make check   format, lint, types, README tables and tests: what CI runs
#   make bench   run the benchmarks on this machine and record them in bench/results
#   make format  rewrite the code in the house format
#   make clean   remove what was built; `make distclean` removes .venv too
# An active virtual or conda environment is used as it is and gets only what it lacks. Without one, .venv is made
# with PYTHON (default python3, 3.10 or newer). A second run installs nothing. PYTEST_ARGS and DEMO_ARGS are passed on.

SHELL := /bin/sh
PYTHON ?= python3

ifneq ($(VIRTUAL_ENV),)
ENV := $(VIRTUAL_ENV)
else ifneq ($(CONDA_PREFIX),)
ENV := $(CONDA_PREFIX)
else
ENV := .venv
endif
PY := $(ENV)/bin/python

# What is installed is stamped inside the environment, per checkout: an environment can serve several.
STAMP := $(ENV)/.fastgen-$(shell printf %s "$(CURDIR)" | cksum | cut -d' ' -f1)
TEST_STAMP := $(STAMP)-dev
# The development tools include what the demo needs.
DEMO_STAMP := $(if $(wildcard $(TEST_STAMP)),$(TEST_STAMP),$(STAMP)-plot)
INPUTS := pyproject.toml constraints.txt

CODE := fastgen kernels bench tests

.PHONY: demo test check format format-check lint types readme-check bench clean distclean

demo: $(DEMO_STAMP)
	$(ENV)/bin/fastgen demo $(DEMO_ARGS)

test: $(TEST_STAMP)
	$(PY) -m pytest $(PYTEST_ARGS)

check: format-check lint types readme-check test

format: $(TEST_STAMP)
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

format-check: $(TEST_STAMP)
	$(PY) -m ruff format --check $(CODE)

lint: $(TEST_STAMP)
	$(PY) -m ruff check $(CODE)

types: $(TEST_STAMP)
	$(PY) -m mypy

readme-check: $(TEST_STAMP)
	$(PY) -m bench render --check

bench: $(TEST_STAMP)
	$(PY) -m bench run --record

# A torch that is already there is kept; the pinned one is only for an environment without.
$(STAMP)-%: $(INPUTS) | $(PY)
	if $(PY) -c 'import torch' 2>/dev/null; then pins=; else pins='-c constraints.txt'; fi; \
	$(PY) -m pip install --disable-pip-version-check --no-input -q $$pins -e '.[$*]'
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	found=$$($(PYTHON) --version 2>&1) || found='not to be found'; \
	echo "make: fastgen needs Python 3.10 or newer; '$(PYTHON)' is $$found; name one:" \
	"make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

clean:
	rm -rf build dist *.egg-info bench_out .mypy_cache .ruff_cache .pytest_cache .benchmarks
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
