# Two commands matter: `make demo` and `make test`. Both build .venv where it is missing or older than what it is made of.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: help demo test check test-slow format wheel clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/plain  ## Segment the example image with a plain install
	$(BIN)/dermseg example demo/example.png
	$(BIN)/dermseg segment demo/example.png --output demo
	@echo "mask:    demo/example_mask.png"
	@echo "overlay: demo/example_overlay.png"

test: .venv/dev  ## Build the development environment and run the whole gate
	$(MAKE) check

check:  ## Run the gate in the environment that is there: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-slow: .venv/dev  ## Run the tests that need minutes
	$(BIN)/pytest -m slow

format: .venv/dev  ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: .venv/dev  ## Build the wheel
	$(BIN)/pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist .

clean:  ## Remove what the other commands made
	rm -rf .venv demo dist build

# The stamps are files inside .venv, so that removing it is enough to start again. A development install serves the demo
# too, and must stay what it is.
.venv/plain: pyproject.toml constraints.txt $(shell find src -type f -not -name "*.pyc")
	@test -e .venv/dev || { $(PYTHON) -m venv .venv && $(PIP) .; }
	touch $@

.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[dev]'
	touch $@ .venv/plain
