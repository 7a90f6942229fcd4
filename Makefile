# Everything a newcomer needs. Python >= 3.11 and make are all it takes; see `make help`.

PORT ?= 8000
ARGS ?=
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Another package index for torch alone, such as one that has small CPU-only builds.
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help serve test check fix bench clean

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile
	@echo "  PORT=8001 chooses another port, ARGS='...' is passed on, TORCH_INDEX=URL names a"
	@echo "  package index for torch alone (for a small build without CUDA)."

serve: .venv/.installed ## Install what is missing and serve the embedded models on port 8000.
	@exec $(BIN)/stagetree serve --port $(PORT) $(ARGS)

test: .venv/.installed-dev ## Install what is missing and run the tests.
	@echo "==> running the tests"
	@$(BIN)/python -m pytest $(ARGS)

check: .venv/.installed-dev ## Lint, format check, types, and the floors of the house.
	@echo "==> ruff, mypy, import-linter"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: .venv/.installed-dev ## Mend what ruff can mend.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.installed ## Measure plain, chain, tree and staged decoding side by side.
	@$(BIN)/stagetree bench $(ARGS)

clean: ## Remove the virtual environment and caches.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.created:
	@test -n "$(PYTHON)" || { echo "stagetree needs Python 3.11 or newer: install one, or name it with PYTHON=/path/to/python3"; exit 1; }
	@echo "==> creating .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.torch: .venv/.created constraints.txt
ifneq ($(TORCH_INDEX),)
	@echo "==> installing $(TORCH) from $(TORCH_INDEX)"
	@$(PIP) --index-url $(TORCH_INDEX) $(TORCH)
endif
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml constraints.txt
	@echo "==> installing stagetree and what it needs (a few minutes the first time)"
	@$(PIP) -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "==> installing the tools of development"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
