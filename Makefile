# The two commands a fresh machine needs: make demo, make test. Python 3.11 or later; PYTHON=python3.13 chooses one.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# What the kernels are compiled with in the tests: gpu (CUDA 13), gpu12, or nothing. About 350 MB, and no device is needed.
GPU    ?= $(if $(filter Linux,$(shell uname -s)),gpu)
comma  := ,
# Neighbours stay together, so that one process has the cluster, the browser and the references.
DIST   := --dist worksteal

.PHONY: demo test readers coverage check docs benchmark sanitize compute-sanitizer benchmark-gpu hooks lock clean

demo: $(VENV)/installed
	mkdir -p demo
	$(BIN)/gpu-spots simulate demo/laser__mccd.h5 --size 1024 --angles 10 --pairs 3 --force
	$(BIN)/gpu-spots find demo/laser__mccd.h5 -S blocks --force
	$(BIN)/gpu-spots score demo/laser__mccd.h5 demo/laser__spots.h5

# Tests start hundreds of processes; those need not compile every module again, whatever the settings.
# The threads of linear algebra would only wait, at the start of each of them.
test: export PYTHONDONTWRITEBYTECODE =
test: export OPENBLAS_NUM_THREADS = 1
test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto $(DIST)

# The programs that read exported files in tests/export, in a Python of their own: they need old
# versions of some packages. LaueTools needs Python 3.12 or earlier.
readers: build/readers/installed

build/readers/installed: tests/export/readers.txt
	$(PYTHON) -m venv build/readers
	build/readers/bin/python -m pip install --quiet -r tests/export/readers.txt
	build/readers/bin/python -m pip install --quiet --no-deps ImageD11 lauetools reciprocalspaceship
	touch $@

# Line and branch coverage of the whole suite: a table here, and pages in build/coverage/html.
coverage: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto $(DIST) --cov --cov-report=term --cov-report=html

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site of the documentation in build/site; a warning, such as a broken link, is an error.
docs: $(VENV)/installed-docs
	$(BIN)/python docs/make_outputs.py
	$(BIN)/python docs/make_pages.py
	$(BIN)/zensical build --strict --clean

benchmark: $(VENV)/installed
	$(BIN)/python benchmarks/cpu.py

# Emulated kernels under AddressSanitizer and UndefinedBehaviorSanitizer, which have to be loaded before Python.
sanitize: $(VENV)/installed-test
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
	GPU_SPOTS_SANITIZE=1 $(BIN)/python -m pytest -n auto -m "sanitize and emulated"

# What only a device can show: accesses out of bounds, and races in shared memory.
compute-sanitizer: $(VENV)/installed-test
	for tool in memcheck racecheck; do \
	  compute-sanitizer --tool $$tool --error-exitcode 9 $(BIN)/python -m pytest -m "gpu and not large" || exit 1; \
	done

benchmark-gpu: $(VENV)/installed-test
	$(BIN)/python benchmarks/gpu.py

# Git hooks that run the checks before each commit (.pre-commit-config.yaml).
hooks: $(VENV)/installed-dev
	$(BIN)/pre-commit install

# The newest versions that pyproject.toml allows, with their hashes, of what the Docker image is made
# of: for the program, and to build it. They come from PyPI, whatever the settings of this machine.
LOCK := $(BIN)/uv --no-config --quiet pip compile --upgrade --default-index https://pypi.org/simple \
	--python-version 3.13 --python-platform linux --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" --output-file
BUILD_REQUIRES := import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
	print(*project["build-system"]["requires"], sep="\n")

lock: $(VENV)/installed-dev
	$(LOCK) docker/requirements.txt $(addprefix --extra ,gpu images plugins report cluster) pyproject.toml
	$(BIN)/python -c '$(BUILD_REQUIRES)' | $(LOCK) docker/build-requirements.txt -

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'gpu_spots needs Python 3.11 or later; PYTHON=... names one')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test$(if $(GPU),$(comma)$(GPU))]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .cache
