# make help says what there is. Everything runs in .venv, made from the versions in constraints.txt.

PYTHON ?= python3
ENV := .venv
READY := $(ENV)/.ready
RUN := . $(ENV)/bin/activate &&

# For what asks nobody: threads that wait for a core cost more than they give. Training asks params.yaml.
export OMP_NUM_THREADS ?= 1

WHERE = echo && echo "Reports, in $$(pwd):" && find out -name '*.html' | sort | sed 's/^/  /' \
  && echo 'Models:' && find out -name '*.onnx' | sort | sed 's/^/  /'

.DEFAULT_GOAL := help
.PHONY: help setup repro test lint real clean

help:  ## say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create the environment

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); \
	  sys.exit(0 if ok else "winnow needs Python 3.11 or 3.12; make PYTHON=python3.12 names one")'
	test -x $(ENV)/bin/pip || $(PYTHON) -m venv $(ENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(ENV)/bin/pip install --disable-pip-version-check \
	  --quiet --progress-bar off --editable '.[dev]'
	mkdir -p build && ln -sfn .. build/winnow
	touch $@

repro: $(READY)  ## run the pipeline on what params.yaml names, and say where the reports are
	@# Without git around it, DVC has to be told that nobody keeps versions here.
	@$(RUN) if [ "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$$(pwd -P)" ]; \
	  then dvc config --local --unset --quiet core.no_scm 2>/dev/null || true; \
	  else dvc config --local --quiet core.no_scm true; fi
	$(RUN) dvc repro
	@$(WHERE)

test: $(READY)  ## run the tests
	@# Two processes, each with whole files: tests of a file share what it sets up.
	$(RUN) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## check style and types
	$(RUN) ruff check . && ruff format --check . && mypy

real: $(READY)  ## run the same pipeline on real datasets: make real DATA=folder
	@test -d '$(DATA)' || { echo 'make real DATA=folder: the folder that holds fsdd/, FashionMNIST/ and ag_news/'; exit 2; }
	$(RUN) python examples/real.py '$(DATA)' build/real
	$(RUN) cd build/real && dvc config --local --quiet core.no_scm true && dvc repro
	@cd build/real && $(WHERE)

clean:  ## remove results, logs and caches; the environment stays
	rm -rf out logs .dvc/cache .dvc/tmp .pytest_cache .mypy_cache .ruff_cache
