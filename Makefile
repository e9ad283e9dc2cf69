# make quickstart: train, evaluate and show a tiny detector.   make test: run the tests.
# Both create .venv and install the project into it first; PYTHON=/path/to/python uses that environment as it is.

ifdef PYTHON
python := $(PYTHON)
installed :=
else
python := .venv/bin/python
installed := .venv/.installed
endif

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: quickstart test test-slow lint clean

quickstart: $(installed)
	$(python) -m dinov2_detrex.quickstart

test: $(installed)
	$(python) -m pytest

test-slow: $(installed)
	$(python) -m pytest -m slow

lint:
	ruff check . && ruff format --check .

clean:
	rm -rf .venv build dist *.egg-info

.venv/.installed: setup.py pyproject.toml
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check --quiet -e ".[test]"
	touch $@
