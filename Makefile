# One word each, and each sets up what it needs: make run | test | test-deep | coverage | lint | bench | stress |
# install | uninstall | deb | compile | experiments | clean
#
#   make run [MNT=./mnt] [OPTS=ram=128m]     mount, print the status and how to unmount
#   make test [T=tests/unit]                 all tests, in two halves at once, or those of one place
#   make test-deep                           the file system checked after each operation, and thrashing: minutes more
#   make coverage                            branch coverage of tmpfsd/uvm, pool and tmpfs by the tests without a mount
#   make bench [NULLFS=nullfs.c] [EXAMPLE=tmpfs.py] [BENCH_OPTS="--peer 'NAME=COMMAND {mnt}'"]
#   make install [PREFIX=/usr/local] [DESTDIR=]  commands, manual pages, completion, helper of mount(8), unit of systemd
#   make uninstall [PREFIX=] [DESTDIR=]      take them away
#   make deb [DEB=.]                         the same as a package for the Debian it is built on
#   make compile                             the hot floors with mypyc; what runs them does it first, after a change
#   make stress [SEED=1] [N=50000]           create N files on a mount of its own, play N seeded operations on a model,
#                                            N more system calls on the kernel's tmpfs and on tmpfsd, and then load it
#                                            with 16 processes (LOAD_SECONDS=120) and 1,000 clients of its socket

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test

MNT ?= ./mnt
OPTS ?= ram=128m
PREFIX ?= /usr/local
DESTDIR ?=
DEB ?= .
T ?= tests
SEED ?= 1
N ?= 50000
# Tests that are about many bytes or many failures, not about many kinds of operations.
DEEP_LEAVES_OUT := $(addprefix --ignore=tests/fs/,test_data.py test_bytes.py test_failures.py test_reserve.py \
	test_invariants.py test_limits.py)
STRESS_OPTS ?= ram=16m
LOAD_SECONDS ?= 120
# TMPFSD_PURE=1: nothing is compiled, all runs interpreted.  TMPFSD_PURE=0: what cannot be compiled is an error.

VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run
TEST_STAMP := $(VENV)/.test
SETUP := setup.cfg pyproject.toml setup.py tools/setup.sh

.PHONY: run install uninstall deb test test-deep coverage lint bench stress compile experiments clean

$(RUN_STAMP): $(SETUP)
	tools/setup.sh run $(VENV)
	touch $@

$(TEST_STAMP): $(SETUP)
	tools/setup.sh test $(VENV)
	touch $@ $(RUN_STAMP)

compile: $(RUN_STAMP)
	$(BIN)/python setup.py -q build_ext --inplace

run: $(RUN_STAMP) compile
	mkdir -p "$(MNT)"
	$(BIN)/tmpfsd tmpfsd "$(MNT)" -o "$(OPTS)"
	$(BIN)/tmpfsctl status "$(MNT)"
	echo
	if [ "$$(id -u)" = 0 ]; then echo "Mounted at $(MNT).  Unmount with: umount $(MNT)"; \
	else echo "Mounted at $(MNT).  Unmount with: fusermount3 -u $(MNT)"; fi

install: $(RUN_STAMP) compile
	tools/install.sh install "$(PREFIX)" "$(DESTDIR)"

uninstall:
	tools/install.sh uninstall "$(PREFIX)" "$(DESTDIR)"

deb: $(RUN_STAMP) compile
	tools/deb.sh "$(DEB)"

test: $(TEST_STAMP) compile
	if [ "$(T)" = tests ]; then tools/test.sh $(BIN)/python; else $(BIN)/python -m pytest $(T); fi

# TMPFSD_CHECK=2 checks everything after each operation, TMPFSD_THRASH=1 evicts every page at every chance.
test-deep: $(TEST_STAMP) compile
	TMPFSD_CHECK=2 $(BIN)/python -m pytest -q tests/fs -k starving $(DEEP_LEAVES_OUT)
	TMPFSD_THRASH=1 TMPFSD_CHECK=2 $(BIN)/python -m pytest -q -k tmpfsd \
		tests/mount/test_posix_perm.py tests/mount/test_posix_xattr.py
	if [ "$$(id -u)" = 0 ]; then \
		for c in deep deep-acl; do $(BIN)/python -m tests.stress.differential $(SEED) 1000 -o $$c; done; fi

coverage: $(TEST_STAMP)
	TMPFSD_PURE=1 $(BIN)/python -m coverage run -m pytest -q tests/unit tests/fs
	$(BIN)/python -m coverage report

lint: $(TEST_STAMP)
	$(BIN)/python -m flake8 tmpfsd tests $(wildcard tools)
	$(BIN)/python -m isort --check-only --quiet tmpfsd tests $(wildcard tools)
	$(BIN)/python -m mypy tmpfsd

stress: $(TEST_STAMP) compile
	directory=$$(mktemp -d); \
	trap 'umount "$$directory" 2>/dev/null || fusermount3 -u "$$directory" || true; rmdir "$$directory"' EXIT; \
	$(BIN)/tmpfsd tmpfsd "$$directory" -o "$(STRESS_OPTS)"; \
	$(BIN)/python tools/create_stress.py "$$directory" --files $(N) --per-dir 1000 --verify --unlink; \
	$(BIN)/tmpfsctl check "$$directory"
	$(BIN)/python -m tests.stress.model $(SEED) $(N)
	$(BIN)/python -m tests.stress.load --seconds $(LOAD_SECONDS)
	if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.stress.differential $(SEED) $$(($(N) / 5)) --seeds 5; \
	else echo "not compared with the kernel's tmpfs: mounting one needs root"; fi

bench: $(TEST_STAMP) compile
	$(BIN)/python -m tools.bench $(if $(NULLFS),--nullfs "$(NULLFS)") $(if $(EXAMPLE),--example "$(EXAMPLE)") $(BENCH_OPTS)

experiments: $(TEST_STAMP) compile
	$(BIN)/python -m tools.experiments

clean:
	if mountpoint -q "$(MNT)"; then echo "$(MNT) is mounted: unmount it first" >&2; exit 1; fi
	rm -rf $(VENV) build tmpfsd/_compiled *.egg-info .pytest_cache .mypy_cache .hypothesis .coverage
	find tmpfsd tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -d "$(MNT)" ]; then rmdir "$(MNT)"; fi

.SILENT:
