# Two commands do everything on a machine with python3 >= 3.11, make and git:
#   make demo    the main job, end to end          make test    every check and every test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Wheels only: no compiler is needed. The two named come as source, and are pure Python.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
          --no-build-isolation --only-binary=:all: --no-binary=varint,python-baseconv

.PHONY: demo test check fast bench lock clean

demo: $(VENV)/run.stamp
	@$(BIN)/meshsat demo $(ARGS)

# What measures lines and loads has the machine to itself; the rest waits for disks and processes most of the time.
test: check
	$(BIN)/pytest -n 4 --dist loadfile -m "not netns" $(ARGS)
	$(BIN)/pytest -m netns $(ARGS)

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: $(VENV)/dev.stamp
	$(BIN)/pytest -n 2 --dist loadfile -m "not clients and not netns and not slow" $(ARGS)

bench: $(VENV)/bench.stamp  ## the figures of the README, in namespaces (root), and of the planes
	$(BIN)/python -m sim.bench --json docs/figures/bench.json --markdown docs/figures/bench.md \
	  --chart docs/img/bench.png --readme $(ARGS)
	$(BIN)/python -m sim.bench_transport

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "meshsat needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make an environment (no ensurepip). On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# setuptools first: it builds the pure-Python sources below, from this list and not from the network.
$(VENV)/setuptools.stamp: requirements/run.lock $(VENV)/python.stamp
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements/run.lock > $(VENV)/setuptools.lock
	$(PIP) -r $(VENV)/setuptools.lock
	@touch $@

$(VENV)/run.stamp: requirements/run.lock pyproject.toml $(VENV)/setuptools.stamp
	@echo "Installing the locked dependencies into $(VENV) (about half a minute) ..."
	$(PIP) -r requirements/run.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock $(VENV)/run.stamp
	$(PIP) -r requirements/dev.lock
	# libp2p needs trio-typing, whose stubs of an old trio would hide the types of the trio that is installed.
	rm -rf $(VENV)/lib/python*/site-packages/trio-stubs
	@touch $@

$(VENV)/bench.stamp: requirements/bench.lock $(VENV)/dev.stamp
	$(PIP) -r requirements/bench.lock
	@touch $@

lock:  ## compile the locked lists anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --override requirements/override.txt requirements/run.in -o requirements/run.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --override requirements/override.txt requirements/dev.in -o requirements/dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  requirements/bench.in -o requirements/bench.lock

clean:
	rm -rf $(VENV) build *.egg-info
