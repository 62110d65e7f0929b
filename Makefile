# Two commands are enough: `make demo` and `make test`. Each does all its set-up, once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := cpu,plots,dev
CONFIG ?= deployments/quickstart.yaml
# A stamp per set of dependencies: an unchanged pyproject.toml installs nothing again.
INSTALLED := $(VENV)/.installed
WEIGHTS := $(VENV)/.weights
CLIENTS := .venv-clients

SHELL := bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-fast test-ray test-llama test-vllm test-postgres test-clients check house format bench clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml
	@echo "== virtual environment in $(VENV) (about 2 minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -U pip
	@echo "== installing hotswap_ray[$(EXTRAS)]"
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[$(EXTRAS)]' 2>$(VENV)/pip-errors \
	  | sed -nuE 's/^(Collecting [^ ]+|Installing collected packages|Successfully installed).*/   \1/p' \
	  || { cat $(VENV)/pip-errors; exit 1; }
	@$(BIN)/python -c 'import ray, hotswap_ray'
	@touch $@

$(WEIGHTS): $(INSTALLED)
	@echo "== preparing the models (Gemma 3 270M and two variants)"
	@$(BIN)/python -c 'from hotswap_ray.engines.weights.gguf import resolve_source as make; \
	  [print("  ", make(name)) for name in ("gemma3-270m", "gemma3-270m:quant=Q4_0", "gemma3-270m:drop=15,quant=Q4_0")]'
	@touch $@

setup: $(INSTALLED) $(WEIGHTS)  ## Install everything and prepare the weights

demo: setup  ## The tour: three real models, swaps under load, a killed controller
	@$(BIN)/python -m hotswap_ray.demo

serve: setup  ## Serve the three models until Ctrl-C (CONFIG=file for others)
	@$(BIN)/hotswap serve $(CONFIG)

test: setup  ## Every test that this machine can run
	@$(BIN)/python -m pytest tests/unit tests/contract hotswap_ray -m 'not ray and not vllm and not gpu' -q
	@$(BIN)/python -m pytest tests/ray -q --durations=5
	@$(BIN)/python -m pytest tests/llama -q

test-fast: $(INSTALLED)  ## Unit tests only: no Ray, no weights
	@$(BIN)/python -m pytest tests/unit hotswap_ray -m 'not ray and not llama and not vllm and not gpu' -q

test-ray: $(INSTALLED)  ## Real Ray, simulated engines
	@$(BIN)/python -m pytest tests/ray -q --durations=5

test-llama: setup  ## Real models with llama.cpp
	@$(BIN)/python -m pytest tests/contract tests/llama -m llama -q

test-vllm:  ## Real vLLM on CPU, in an environment of its own (5 GB, minutes)
	@.ci/vllm_env .venv-vllm
	@.venv-vllm/bin/python -m pytest tests/vllm -m vllm -q

test-postgres: $(INSTALLED)  ## The store's suite on a throwaway PostgreSQL server
	@said=$$(mktemp); url=$$(.ci/postgres 2>$$said) || { cat $$said; exit 1; }; \
	  HOTSWAP_TEST_POSTGRES_URL=$$url $(BIN)/python -m pytest tests/unit -m postgres -q; status=$$?; \
	  .ci/postgres stop "$$(sed -n 's/^folder: //p' $$said)"; exit $$status

$(CLIENTS)/.installed: tests/clients/requirements.txt
	@echo "== the clients, in $(CLIENTS) (about 3 minutes the first time)"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --disable-pip-version-check -q -U pip
	@$(CLIENTS)/bin/python -m pip install --disable-pip-version-check -q -r $<
	@touch $@

tests/clients/node/node_modules: tests/clients/node/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix $(@D) --no-audit --no-fund && touch $@; \
	  else echo "== npm is not installed: the Node clients are skipped"; fi

test-clients: setup $(CLIENTS)/.installed tests/clients/node/node_modules  ## Clients of others, against the running product
	@HOTSWAP_PYTHON=$(BIN)/python $(CLIENTS)/bin/python -m pytest tests/clients -m clients -q

check: $(INSTALLED)  ## Lint, format, types, import direction, documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/unit/test_layers.py tests/unit/test_docs.py tests/unit/test_examples.py -q

house:  ## The shape of the code: files a folder, longest files, broad catches
	@$(PYTHON) -m tests.house

format: $(INSTALLED)  ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

bench: setup  ## All benchmarks; each prints one JSON object last
	@for file in overhead swap_under_load learnings decisions; do \
	  echo "== $$file"; $(BIN)/python benchmarks/$$file.py || exit 1; done

clean:  ## Remove the environments and caches of this checkout
	rm -rf .venv .venv-vllm .venv-clients tests/clients/node/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
