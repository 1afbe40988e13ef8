# Each target does all of its own set-up: a fresh clone, Python 3.11, nothing else.
#   make demo    the real thing on a small simulated sky, ends with posteriors beside the truth
#   make test    all tests but those that need a Slurm cluster
#   make slurm-test  those, on a small real Slurm on this machine (root, Debian or Ubuntu)
#   make lint    style and types
#   make bench   timings; prints what it measures

PYTHON ?= python3
# Those that need nothing but the package; the others of benchmarks/ say in their first lines what.
BENCHMARKS ?= engine summary cutting end_to_end scaling plan_10m layer simulate precision lossy \
  novelty
BIN := .venv/bin

# The environment is made again when the lock, the package's own metadata or the tree's place change.
STAMP := .venv/.ready-$(shell { cat requirements.lock pyproject.toml; pwd; } | sha256sum | cut -c1-16)

.PHONY: demo test slurm-test lint format bench env clean

demo: $(STAMP)
	$(BIN)/survey-gampen demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slurm" $(ARGS)

slurm-test: $(STAMP)
	$(BIN)/python -m pytest -m slurm $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

env: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "python3-venv is missing; install it with: sudo apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "installing the packages of requirements.lock into .venv (once)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps \
	  --no-build-isolation --editable .
	@rm -f .venv/.ready-*
	@touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
