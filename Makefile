# make train, photographs, web, page, test, test-slow, test-lowest, lint, docs, benchmark, wheel, clean.
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
LOWEST := .venv-lowest-$(VERSION)
MEDIAPIPE := runs/mediapipe
WEB := jaxhand/exporting/web
PORT := 8000
# Large memory pages for the buffers of XLA on Linux: a fifth more images/s
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: train photographs web page test test-slow test-lowest lint docs benchmark wheel clean

train: $(VENV)/.installed
	$(RUN) -m jaxhand.train

# All hands of IMAGES="a.jpg b.jpg"; without IMAGES, of rendered ones
photographs: $(MEDIAPIPE)/palm_detector/conversion.txt
	$(if $(IMAGES),,$(RUN) -m jaxhand.data.synthetic --photographs $(MEDIAPIPE)/rendered --split test --count 8 --size 512)
	$(RUN) -m jaxhand.predict $(MEDIAPIPE) $(or $(IMAGES),$(MEDIAPIPE)/rendered/*.jpg)

# MediaPipe's networks (Apache-2.0, see NOTICE). Only files of the wheel are read, so one for Linux serves everywhere.
$(MEDIAPIPE)/palm_detector/conversion.txt: | $(VENV)/.installed
	$(RUN) -m pip download --quiet --no-deps --dest $(VENV)/mediapipe --only-binary=:all: --python-version 3.12 \
		--implementation cp --platform manylinux_2_28_x86_64 mediapipe==0.10.21
	$(RUN) -m jaxhand.convert mediapipe $(VENV)/mediapipe/mediapipe-0.10.21-*.whl $(MEDIAPIPE)

# Builds the web page that `jaxhand export --web` writes (needs Node 18 or newer), writes the one of RUN and serves it
web: page $(MEDIAPIPE)/palm_detector/conversion.txt $(VENV)/.installed-export
	$(RUN) -m jaxhand.export $(or $(WEB_RUN),$(MEDIAPIPE)) runs/web --web --folder
	$(RUN) -m http.server --bind 127.0.0.1 --directory runs/web $(PORT)

page: $(WEB)/dist/main.js

$(WEB)/dist/main.js: $(WEB)/node_modules/.installed $(wildcard $(WEB)/src/*.ts $(WEB)/*.html $(WEB)/*.css $(WEB)/build.mjs)
	cd $(WEB) && npm run --silent check && npm run --silent build

$(WEB)/node_modules/.installed: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --silent --no-audit --no-fund
	touch $@

# What pytest takes, such as `make test ARGS="-k checkpoint"`; ARGS="-n 0" runs one test file after the other
test: $(VENV)/.installed-test
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-test
	$(RUN) -m pytest -m slow --timeout 3600 $(ARGS)

# The tests with the oldest versions that requirements.txt allows
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-lint
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m basedpyright --pythonpath $(RUN)

benchmark: $(VENV)/.installed-benchmark
	$(RUN) -m benchmarks.train_step

# The documentation as a web site, in site/
docs: $(VENV)/.installed-docs
	$(VENV)/bin/zensical build --clean

# With the web page inside, where Node is there to build it
wheel: $(VENV)/.installed-test $(if $(shell command -v npm),page)
	$(RUN) -m build

# An environment of another Python version is made anew.
$(VENV)/.python-$(VERSION):
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.python-$(VERSION) requirements.txt pyproject.toml setup.py
	@echo "Installing jaxhand into $(VENV); the first time takes some minutes"
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: tests/requirements.txt requirements-export.txt
$(VENV)/.installed-export: requirements-export.txt
$(VENV)/.installed-rerun: requirements-rerun.txt
$(VENV)/.installed-video: requirements-video.txt
$(VENV)/.installed-lint: tests/requirements-lint.txt
$(VENV)/.installed-docs: docs/requirements.txt
$(VENV)/.installed-benchmark: benchmarks/requirements.txt
$(VENV)/.installed-%: $(VENV)/.python-$(VERSION) requirements.txt pyproject.toml setup.py
	@echo "Installing jaxhand[$*] into $(VENV); the first time takes some minutes"
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@ $(VENV)/.installed

$(LOWEST)/.installed: requirements.txt tests/requirements.txt pyproject.toml setup.py | $(VENV)/.python-$(VERSION)
	@echo "Installing the oldest versions into $(LOWEST); the first time takes some minutes"
	$(RUN) -m pip install --quiet uv
	$(RUN) -m uv venv --quiet --clear --python $(RUN) $(LOWEST)
	$(RUN) -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info
