# One word each, and each sets up what it needs: make run | test | lint | bench | stress | experiments | clean
#
#   make run [MNT=./mnt] [OPTS=ram=128m]     mount, print the status and how to unmount
#   make test [T=tests/unit]                 all tests, or those of one place
#   make stress [SEED=1] [N=50000]           create N files on a mount of its own, then play N seeded operations on a
#                                            model, and N more system calls on the kernel's tmpfs and on tmpfsd

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test

MNT ?= ./mnt
OPTS ?= ram=128m
T ?= tests
SEED ?= 1
N ?= 50000
STRESS_OPTS ?= ram=16m

VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run
TEST_STAMP := $(VENV)/.test
SETUP := setup.cfg pyproject.toml tools/setup.sh

.PHONY: run test lint bench stress experiments clean

$(RUN_STAMP): $(SETUP)
	tools/setup.sh run $(VENV)
	touch $@

$(TEST_STAMP): $(SETUP)
	tools/setup.sh test $(VENV)
	touch $@ $(RUN_STAMP)

run: $(RUN_STAMP)
	mkdir -p "$(MNT)"
	$(BIN)/tmpfsd tmpfsd "$(MNT)" -o "$(OPTS)"
	$(BIN)/tmpfsctl status "$(MNT)"
	echo
	if [ "$$(id -u)" = 0 ]; then echo "Mounted at $(MNT).  Unmount with: umount $(MNT)"; \
	else echo "Mounted at $(MNT).  Unmount with: fusermount3 -u $(MNT)"; fi

test: $(TEST_STAMP)
	$(BIN)/python -m pytest $(T)

lint: $(TEST_STAMP)
	$(BIN)/python -m flake8 tmpfsd tests $(wildcard tools)
	$(BIN)/python -m isort --check-only --quiet tmpfsd tests $(wildcard tools)
	$(BIN)/python -m mypy tmpfsd

stress: $(TEST_STAMP)
	directory=$$(mktemp -d); \
	trap 'umount "$$directory" 2>/dev/null || fusermount3 -u "$$directory" || true; rmdir "$$directory"' EXIT; \
	$(BIN)/tmpfsd tmpfsd "$$directory" -o "$(STRESS_OPTS)"; \
	$(BIN)/python tools/create_stress.py "$$directory" --files $(N) --per-dir 1000 --verify --unlink; \
	$(BIN)/tmpfsctl check "$$directory"
	$(BIN)/python -m tests.stress.model $(SEED) $(N)
	if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.stress.differential $(SEED) $$(($(N) / 5)) --seeds 5; \
	else echo "not compared with the kernel's tmpfs: mounting one needs root"; fi

bench experiments: $(TEST_STAMP)
	if [ -e tools/$@ ]; then $(BIN)/python -m tools.$@; \
	else echo "make $@: not here yet, it comes with an issue of its own"; fi

clean:
	if mountpoint -q "$(MNT)"; then echo "$(MNT) is mounted: unmount it first" >&2; exit 1; fi
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .hypothesis
	find tmpfsd tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -d "$(MNT)" ]; then rmdir "$(MNT)"; fi

.SILENT:
