# On Debian 12 or 13 with git, make and root or sudo, each of these installs what it lacks.
#   make demo     trace a system call that fails, on this kernel or in a guest
#   make test     lint, unit, live and end-to-end tests on all kernel rows
#   make unit | live | e2e | lint | bench | setup | clean
# KERNEL=6.1|6.12|latest|all|host picks the rows of e2e; PYTEST_ARGS is passed on.

SHELL := /bin/sh
PYTHON := .venv/bin/python
KERNEL ?= all
export PATH := $(PATH):/usr/sbin:/sbin
PYTEST := $(PYTHON) -m pytest $(PYTEST_ARGS)
LINTED := pybpf tools tests vagrant vagrant/vm

.PHONY: help setup setup-vm setup-clang setup-bench lint unit live e2e test demo bench clean distclean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

setup:
	@vagrant/host.sh python
	@p=python3; $$p -c 'import tomllib' 2>/dev/null || p=/usr/bin/python3; $$p tools/venv.py

setup-vm: setup
	@vagrant/vm --setup --kernel all

setup-clang:
	@vagrant/host.sh clang

setup-bench: setup
	@vagrant/host.sh bench

lint: setup
	$(PYTHON) -m ruff check $(LINTED)
	$(PYTHON) -m ruff format --check $(LINTED)
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --strict vagrant/_vm

unit: setup
	$(PYTEST) tests/unit

live: setup
	$(PYTEST) tests/live

e2e: setup-vm
	$(PYTEST) tests/e2e tests/live --kernel=$(KERNEL)

# Minutes a row, and about multi programs only: `make e2e` runs these too.
LONG := $(addprefix --ignore=tests/e2e/test_,multi_random.py multi_scale.py lowerings.py)

# One pytest run for everything else, so its last line counts it all.
test: lint setup-vm setup-clang
	$(PYTEST) tests/unit tests/live tests/e2e --kernel=all $(LONG)

demo: setup
	@$(PYTHON) tools/demo.py

bench: setup-bench
	$(PYTHON) -m tests.bench

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .vm-out *.egg-info build
	find pybpf tools tests vagrant -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
