PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Large memory pages for the buffers of XLA on Linux: a fifth more images/s
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train test test-slow benchmark clean

train: $(VENV)/.installed
	$(RUN) -m jaxhand.train

test: $(VENV)/.installed-test
	$(RUN) -m pytest

test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -m slow

benchmark: $(VENV)/.installed-benchmark
	$(RUN) -m benchmarks.train_step

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python requirements.txt tests/requirements.txt pyproject.toml
	$(RUN) -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-benchmark: $(VENV)/bin/python requirements.txt benchmarks/requirements.txt pyproject.toml
	$(RUN) -m pip install --quiet --editable ".[benchmark]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info
