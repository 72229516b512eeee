# make train, test, test-slow, lint, benchmark, wheel, clean.
# The environment is .venv. `make test PYTHON=python3.13` takes another Python, with an environment of its own: .venv-3.13
ifeq ($(origin PYTHON), undefined)
PYTHON := python3
VENV := .venv
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error $(PYTHON) does not run: name a Python of 3.11 or newer, such as PYTHON=python3.13)
endif
VENV ?= .venv-$(VERSION)
RUN := $(VENV)/bin/python
# Large memory pages for the buffers of XLA on Linux: a fifth more images/s
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train test test-slow lint benchmark wheel clean

train: $(VENV)/.installed
	$(RUN) -m jaxhand.train

# What pytest takes, such as `make test ARGS="-k checkpoint"`
test: $(VENV)/.installed-test
	$(RUN) -m pytest $(ARGS)

test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -m slow $(ARGS)

lint: $(VENV)/.installed-lint
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m basedpyright --pythonpath $(RUN)

benchmark: $(VENV)/.installed-benchmark
	$(RUN) -m benchmarks.train_step

wheel: $(VENV)/.installed-test
	$(RUN) -m build

# An environment of another Python version is made anew.
$(VENV)/.python-$(VERSION):
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.python-$(VERSION) requirements.txt pyproject.toml setup.py
	@echo "Installing jaxhand into $(VENV); the first time takes some minutes"
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: tests/requirements.txt
$(VENV)/.installed-lint: tests/requirements-lint.txt
$(VENV)/.installed-benchmark: benchmarks/requirements.txt
$(VENV)/.installed-%: $(VENV)/.python-$(VERSION) requirements.txt pyproject.toml setup.py
	@echo "Installing jaxhand[$*] into $(VENV); the first time takes some minutes"
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf .venv .venv-* build dist *.egg-info
