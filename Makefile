# The two commands are `make repro` and `make test`. Everything runs in .venv, which they make, or `make install` alone.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3

.PHONY: install repro test test-cluster lint format bench bench-full bench-peers weights soak lock clean

install: .venv/installed

repro: .venv/installed
	dvc repro

test: lint
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

# Starts a Slurm of two nodes on this machine: as root, with Debian's slurm-wlm and munge.
test-cluster: .venv/installed
	OMP_NUM_THREADS=1 python -m pytest tests/cluster

lint: .venv/installed
	ruff check .
	ruff format --check .
	lint-imports --no-cache
	mypy

format: .venv/installed
	ruff check --fix .
	ruff format .

bench: .venv/installed
	python -m bench

bench-full: .venv/installed
	python -m bench --full

# What the benches compare with, in an environment of its own: their versions must not decide ours.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --requirement bench/peers.txt

# The networks that come with Frost, made again from nothing: hours, in a clone of its own that goes on where it stopped.
weights: .venv/installed
	python -m studies.weights

soak: .venv/installed
	python -m tests.soak
	python -m tests.soak --without-locks

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.lock
	.venv/bin/pip install --quiet --no-deps --editable .
	touch $@

# Resolve pyproject.toml anew, in an environment of its own.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0 --editable '.[dev]'
	.venv-lock/bin/pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-peers .venv-lock .weights .mypy_cache .ruff_cache .pytest_cache
