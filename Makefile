# Needs GNU make 3.81 (what macOS has) or newer. `make help` lists the targets.

# What a caller may set, as in `make demo PORT=8000`:
#   PYTHON   the interpreter .venv is made with
#   PORT     where the demo listens
#   MODE     the demo's async mode
#   ARGS     more arguments for pytest, or for the benchmark
#   BENCH    where the benchmark writes its figures
#   SYSTEM   0: install no system packages
PYTHON ?= python3
PORT ?= 5000
MODE ?= threading
ARGS ?=
BENCH ?= docs/engine.json
SYSTEM ?= 1

VENV := .venv
STAMPS := $(VENV)/.stamps
python := $(VENV)/bin/python
pip := $(python) -m pip --quiet --disable-pip-version-check

ifeq ($(filter threading eventlet gevent,$(MODE)),)
$(error MODE is "$(MODE)"; it must be threading, eventlet or gevent)
endif
extras := $(if $(filter threading,$(MODE)),demo,demo,$(MODE))

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-versions test-lowest check install soak bench format generate system clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' Makefile

demo: $(STAMPS)/demo-$(MODE) ## the chat on 127.0.0.1:5000 (PORT=, MODE=threading|eventlet|gevent)
	@exec $(python) -m example_app --host 127.0.0.1 --port $(PORT) --mode $(MODE)

test: system install ## install what the tests need and run them all (ARGS= for pytest, SYSTEM=0)
	@exec $(python) scripts/test.py $(ARGS)

test-versions: system install ## the server's tests on each Python found, with the lowest and the newest packages
	@exec $(python) scripts/versions.py -- $(ARGS)

test-lowest: system install ## those that depend on other packages, on the oldest Python found with the lowest ones
	@exec $(python) scripts/versions.py --lowest -- $(ARGS)

check: install ## format, lint, types, architecture, generated files
	$(call step,ruff format,$(python) -m ruff format --check .)
	$(call step,ruff check,$(python) -m ruff check .)
	$(call step,mypy --strict,$(python) -m mypy --strict flask_livepush)
	$(call step,lint-imports,$(VENV)/bin/lint-imports --no-logo)
	$(call step,generated files,$(python) scripts/generate.py --check)

install: $(STAMPS)/dev $(STAMPS)/gunicorns client/node_modules/.stamp ## everything for development, into .venv and client/node_modules
	@:

soak: system install ## the heavy tests at full length
	@exec $(python) -m pytest -m soak -o faulthandler_timeout=0 $(ARGS)

bench: $(STAMPS)/bench $(STAMPS)/bench-node ## measure a server process beside its peers and draw it (ARGS= for bench.engine)
	@$(python) -m bench.engine --json $(BENCH) $(ARGS)
	@exec $(python) -m bench.engine --plot $(BENCH)

format: $(STAMPS)/dev ## format the code and mend what can be mended
	@$(python) -m ruff check --fix-only --quiet .
	@$(python) -m ruff format --quiet .

generate: install ## write the generated files
	@$(python) scripts/generate.py

system: ## install the tests' system packages (root on Debian or Ubuntu; elsewhere only say)
	@SYSTEM=$(SYSTEM) sh scripts/system_packages.sh

clean: ## remove what was installed and the caches
	@rm -rf $(VENV) client/node_modules bench/node/node_modules .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# A step of the check says one word, or everything when it fails.
step = @printf '%-16s' '$(1)'; \
	if out=$$($(2) 2>&1); then echo ok; else echo failed; printf '%s\n' "$$out"; exit 1; fi

# A stamp is as new as the last installation: what it depends on decides whether to
# install again. They are inside what they stand for, so that they go with it.

$(python):
	@echo "making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is not Python 3.10 or newer; name one that is: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(STAMPS)/dev: pyproject.toml | $(python)
	@echo "installing the Python packages for development"
	@$(pip) install --editable '.[dev]'
	@mkdir -p $(STAMPS) && touch $@

# Those that many applications pin, each for itself; the newest is among the others.
$(STAMPS)/gunicorns: Makefile $(STAMPS)/dev
	@for version in 21.2.0 23.0.0; do \
		$(pip) install --no-deps --upgrade --target $(VENV)/gunicorns/$$version gunicorn==$$version || exit 1; \
	done
	@touch $@

# The development packages include the demo's.
$(STAMPS)/demo-$(MODE): pyproject.toml | $(python)
	@if [ ! $(STAMPS)/dev -nt pyproject.toml ]; then \
		echo "installing the Python packages of the demo ($(MODE))"; \
		$(pip) install --editable '.[$(extras)]'; \
	fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/bench: pyproject.toml $(STAMPS)/dev
	@echo "installing the Python packages of the benchmark"
	@$(pip) install --editable '.[bench]'
	@touch $@

# Node.js is one of the peers; where there is none, the benchmark says so and goes on.
$(STAMPS)/bench-node: bench/node/package.json bench/node/package-lock.json $(STAMPS)/dev
	@if PATH="$$PATH:$(CURDIR)/$(VENV)/bin"; command -v npm >/dev/null; then \
		echo "installing the npm packages of the benchmark"; \
		cd bench/node && npm ci --no-audit --no-fund --loglevel=error >/dev/null && touch "$(CURDIR)/$@"; \
	fi

client/node_modules/.stamp: client/package.json client/package-lock.json | $(python)
	@echo "installing the npm packages of the client"
	@sh scripts/npm.sh ci --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@
