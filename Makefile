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

tiny := projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py
in_parallel = $(shell $(python) -c 'import xdist' 2>/dev/null && echo '-n auto')

quickstart: $(installed)
	$(python) -m dinov2_detrex.env
	$(python) -m dinov2_detrex.data.shapes
	$(python) tools/train_net.py --config-file $(tiny)
	$(python) tools/draw_predictions.py --config-file $(tiny)

test: $(installed)
	$(python) -m pytest $(in_parallel)

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
