# make quickstart: train, evaluate and show a tiny detector.   make test: run the tests.
# Both create .venv and install the project into it first, with the versions of constraints/tested.txt;
# PYTHON=/path/to/python uses that environment as it is.
# make test-oldest, make test-newest: run the tests with the oldest and the newest versions that pyproject.toml allows.
# make docs: build the documentation into docs/_build/html; warnings are errors.
# make benchmark: measure the tables of benchmarks/RESULTS.md anew, on an idle machine; NAMES="losses step" some of them.
# make test-shuffled: run the tests in a random order; SEED=n repeats one.   make lint: style and types.

ifdef PYTHON
python := $(PYTHON)
installed :=
else
python := .venv/bin/python
installed := .venv/.installed
endif

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

# Interpreters of the two ends, as names that uv finds or as paths.
OLDEST_PYTHON ?= 3.10
NEWEST_PYTHON ?= 3.13
quiet := --disable-pip-version-check --quiet
SEED ?= $(shell date +%s)

.PHONY: docs quickstart benchmark test test-slow test-shuffled test-oldest test-newest coverage constraints lint lint-types clean

tiny := projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py
in_parallel = $(shell $(python) -c 'import xdist' 2>/dev/null && echo '-n auto')

quickstart: $(installed)
	$(python) -m dinov2_detrex.env
	$(python) -m dinov2_detrex.data.shapes
	$(python) tools/train_net.py --config-file $(tiny)
	$(python) tools/draw_predictions.py --config-file $(tiny)

benchmark: $(installed)
	$(python) tools/benchmark.py results $(NAMES)

test: $(installed)
	$(python) -m pytest $(in_parallel)

test-slow: $(installed)
	$(python) -m pytest -m slow

test-shuffled: $(installed)
	$(python) -m pytest $(in_parallel) --random-order --random-order-seed=$(SEED)

test-oldest: .venv-oldest/.installed
	$(MAKE) test PYTHON=.venv-oldest/bin/python

test-newest: .venv-uv/bin/uv
	test -x .venv-newest/bin/python || $< venv --quiet --seed --python $(NEWEST_PYTHON) .venv-newest
	$< pip install --quiet --python .venv-newest --upgrade -e ".[test]"
	$(MAKE) test PYTHON=.venv-newest/bin/python

# Write both files anew: the newest versions around the tested torch, and the lower bounds of pyproject.toml.
constraints: .venv-uv/bin/uv
	$< pip compile --quiet --no-annotate --custom-compile-command "make constraints" --extra test --extra lint --upgrade \
	    --universal --python-version 3.10 --constraints constraints/torch.in -o constraints/tested.txt pyproject.toml
	$< pip compile --quiet --no-annotate --custom-compile-command "make constraints" --extra test --extra lint --upgrade \
	    --resolution lowest-direct --python-version 3.10 -o constraints/oldest.txt pyproject.toml

coverage: $(installed)
	$(python) -m pytest $(in_parallel) --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(installed) lint-types
	$(python) -m ruff check .
	$(python) -m ruff format --check .

lint-types: $(installed)
	$(python) -m basedpyright --level error

# The packages of the extra `docs` come on top of the environment of the tests.
docs: $(if $(PYTHON),,.venv/.installed-docs)
	$(python) -m sphinx -W --keep-going -q -b html docs docs/_build/html

.venv/.installed-docs: .venv/.installed
	.venv/bin/python -m pip install $(quiet) -c constraints/tested.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-uv build dist docs/_build *.egg-info

# Where a version of constraints/tested.txt is not to be had (another platform, a newer Python), what pip finds has to do.
.venv/.installed: setup.py pyproject.toml constraints/tested.txt
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/python -m pip install $(quiet) -c constraints/tested.txt -e ".[test,lint]" || \
	    { echo "constraints/tested.txt cannot be installed here; taking the versions that pip chooses" >&2; \
	      .venv/bin/python -m pip install $(quiet) -e ".[test,lint]"; }
	touch $@

.venv-oldest/.installed: .venv-uv/bin/uv setup.py pyproject.toml constraints/oldest.txt
	$< venv --quiet --seed --clear --python $(OLDEST_PYTHON) .venv-oldest
	$< pip install --quiet --python .venv-oldest --constraints constraints/oldest.txt -e ".[test]"
	touch $@

.venv-uv/bin/uv:
	python3 -m venv .venv-uv
	.venv-uv/bin/python -m pip install $(quiet) uv
