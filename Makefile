# make demo   analyse a real photograph and a video, into out/
# make test   lint, types, tests
# make slow   the tests that take long
# make lowest the tests on the lowest versions that pyproject.toml admits
# make wheel  builds what a package index would get, and tries it in an empty environment
# make docs   the documentation site, into out/site
# CI runs test, slow, lowest and wheel; a slow test builds the site. Each creates .venv first, from the exact versions
# and hashes in the lock files.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test slow docs lowest wheel lock clean

demo: .venv/.demo
	$(BIN)/python scripts/demo.py

test: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror faceflax/native/src/*
	$(BIN)/mypy
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

# A worker compiles networks and needs up to 3 GB. The tests of a file share what it compiles.
WORKERS := --numprocesses logical --maxprocesses 4 --dist loadfile

slow: .venv/.test
	$(BIN)/python -m pytest $(WORKERS) -m slow tests

docs: .venv/.test
	$(BIN)/python -m experiments.tools.site --output out/site

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or name it: make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.demo: requirements.lock pyproject.toml | $(BIN)/python
	$(call install,requirements.lock)

.venv/.test: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(call install,requirements-dev.lock)

# A bare server has no libGL, which opencv-python links to: there the headless wheel of the same version takes its place.
define install
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --requirement $(1)
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
		echo 'opencv-python lacks a system library here; taking opencv-python-headless (no windows) instead'; \
		$(BIN)/python -m pip uninstall --quiet --yes opencv-python && \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall --require-hashes \
			--requirement requirements-headless.lock; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m faceflax.native
	@touch $@
endef

# The same tests on the lowest versions that pyproject.toml admits; old releases may warn.
lowest: .venv/.test
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --requirement pyproject.toml --extra dev
	@.venv-lowest/bin/python -c 'import cv2' 2>/dev/null || { \
		lowest=$$($(BIN)/uv pip freeze --python .venv-lowest | sed -n 's/^opencv-python==/opencv-python-headless==/p'); \
		$(BIN)/uv pip uninstall --quiet --python .venv-lowest opencv-python && \
		$(BIN)/uv pip install --quiet --python .venv-lowest --no-deps "$$lowest"; }
	$(BIN)/uv pip install --quiet --python .venv-lowest --no-deps --editable . --build-constraints requirements-build.lock
	.venv-lowest/bin/python -m pytest $(WORKERS) -m "not slow" -o filterwarnings=default

# What a package index would get: the wheel is built from the source archive, tried in an empty environment.
wheel: .venv/.test
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist --build-constraints requirements-build.lock --require-hashes
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/python tests/packaging/check_wheel.py dist

# Exact versions for every platform and Python the project supports; names and hashes only, no addresses.
# The build backend is in each lock: an editable install takes it from .venv, since `wheel` alone compiles the kernels.
lock: .venv/.test
	( $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'; \
		echo cmake; echo ninja ) | $(BIN)/uv pip compile - $(LOCK) --output-file requirements-build.lock
	echo scikit-build-core | $(BIN)/uv pip compile pyproject.toml - --extra dev $(LOCK) --output-file requirements-dev.lock
	echo scikit-build-core | $(BIN)/uv pip compile pyproject.toml - --extra train $(LOCK) --constraint requirements-dev.lock \
		--output-file requirements.lock
	grep '^opencv-python==' requirements.lock | sed 's/opencv-python/opencv-python-headless/; s/ .*//' | \
		$(BIN)/uv pip compile - $(LOCK) --no-deps --output-file requirements-headless.lock

LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
