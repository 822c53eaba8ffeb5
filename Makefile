# The two commands a fresh machine needs: make demo, make test. Python 3.11 or later; PYTHON=python3.13 chooses one.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test check benchmark clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/gpu-spots simulate demo/laser__mccd.h5 --size 1024 --angles 10 --pairs 3 --force
	$(BIN)/lu_hdf2spots demo/laser__mccd.h5 -S blocks --force
	$(BIN)/gpu-spots score demo/laser__mccd.h5 demo/laser__spots.h5

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/installed
	$(BIN)/python benchmarks/cpu.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'gpu_spots needs Python 3.11 or later; PYTHON=... names one')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
