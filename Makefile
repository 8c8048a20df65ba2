# On Debian 12 or 13 with git, make and root or sudo, each target installs what it needs.
#   make demo     trace a system call that fails, on this kernel or in a guest
#   make test     lint, unit, live and end-to-end tests on all kernel rows
#   make vagrant-test  the end-to-end tests again, in Vagrant machines (vagrant/README.md)
#   make unit | live | e2e | lint | bench | setup | clean
#   make histories  HISTORIES (300) random histories of tracers on the rows, from SEED (1) on
#   make fuzz     mutated inputs to every parser for FUZZ_SECONDS (600), FUZZ_SEED (1)
# KERNEL=6.1|6.12|latest|all|host picks the rows of e2e; PYTEST_ARGS is passed on.

SHELL := /bin/sh
PYTHON := .venv/bin/python
KERNEL ?= all
HISTORIES ?= 300
SEED ?= 1
FUZZ_SECONDS ?= 600
FUZZ_SEED ?= 1
export PATH := $(PATH):/usr/sbin:/sbin
# Tests start hundreds of processes. Without byte code, each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(PYTHON) -m pytest $(PYTEST_ARGS)
LINTED := pybpf tools tests vagrant setup.py $(addprefix vagrant/,vm e2e build-box kvm)

.PHONY: help setup setup-vm setup-clang setup-bench setup-vagrant lint unit live e2e test vagrant-test
.PHONY: demo bench fuzz histories clean distclean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup:
	@vagrant/host.sh python
	@p=python3; $$p -c 'import tomllib' 2>/dev/null || p=/usr/bin/python3; $$p tools/dev/venv.py

setup-vm: setup
	@vagrant/vm --setup --kernel all

setup-vagrant:
	@vagrant/host.sh validate

setup-clang:
	@vagrant/host.sh clang

setup-bench: setup
	@vagrant/host.sh bench

lint: setup
	$(PYTHON) -m ruff check $(LINTED)
	$(PYTHON) -m ruff format --check $(LINTED)
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --strict --explicit-package-bases vagrant/_vm vagrant/_vagrant

unit: setup
	$(PYTHON) -m pytest -n auto $(PYTEST_ARGS) tests/unit

live: setup
	$(PYTEST) tests/live

e2e: setup-vm setup-vagrant
	$(PYTEST) tests/e2e tests/live --kernel=$(KERNEL)

# One pytest run for everything except tests that take minutes per row, so its last line counts all. `make e2e` runs those, too.
test: lint setup-vm setup-clang setup-vagrant
	PYBPF_ALL_EXAMPLES=1 $(PYTEST) tests/unit tests/live tests/e2e --kernel=all -m 'not long'

# The same suite in Vagrant machines, as root, tests of runs that are killed, and funcwatch's unit. Takes an hour and more.
vagrant-test: setup
	vagrant/e2e all
	$(PYTEST) tests/vagrant

demo: setup
	@$(PYTHON) tools/dev/demo.py

bench: setup-bench
	$(PYTHON) -m tests.bench

fuzz: setup
	$(PYTHON) -m tests.fuzz --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

# Goes on where it was if it is stopped; `rm .vm-out/histories` begins again.
histories: setup-vm
	@mkdir -p .vm-out
	$(PYTHON) -m tests.histories --kernel $(filter-out host,$(KERNEL)) --histories $(HISTORIES) --seed $(SEED) --notes .vm-out/histories

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .vm-out .vagrant-out *.egg-info build
	find pybpf tools tests vagrant -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
