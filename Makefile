# Every target sets up what it needs first; where that is done already it takes no time.

PYTHON ?= python3
ENGINE ?= auto
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# Tiny models are fastest, and least disturbed by other programs, on one thread.
ONE_THREAD = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}
# The notebooks of the course, or ONLY=07; not the copies that learners keep beside them.
COURSE = $(or $(wildcard notebooks/$(or $(ONLY),[0-9][0-9])_*.ipynb),$(error ONLY=$(ONLY): no notebook begins so; say 00 to 08))
SETUP = $(PYTHON) -m rlkit.bootstrap $(VENV) --engine $(ENGINE) --extras

.DEFAULT_GOAL := help
.PHONY: help demo test test-browser pictures notebooks assignments autograde slides badges lab bench lint format model doctor clean

help: ## list the targets (this is the default)
	@echo "make TARGET [PYTHON=python3.12] [ENGINE=auto|cpu|gpu|none]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## train the embedded model with GRPO: make demo SEED=3 ARGS="--engine hf", or ARGS=--rlhf
	@$(SETUP) ""
	@$(ONE_THREAD) $(BIN)/rlkit demo $(if $(SEED),--seed $(SEED)) $(ARGS)

test: ## run all tests, the notebooks among them, then the linter: make test WORKERS=2 ARGS="-k advantages"
	@$(SETUP) lab,dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
		--nbval-sanitize-with tests/sanitize.cfg tests $(COURSE) $(ARGS)
	$(BIN)/ruff check .

test-browser: ## run the widgets' tests in JupyterLab and Chromium (part of make test): RLKIT_SCREENSHOTS=folder keeps pictures
	@$(SETUP) lab,dev
	$(ONE_THREAD) $(BIN)/python -m pytest tests/browser $(ARGS)

pictures: ## take the pictures of notebooks/widgets.md anew, in JupyterLab: make pictures ARGS="kl_explorer"
	@$(SETUP) lab,dev
	$(ONE_THREAD) $(BIN)/python tests/browser/pictures.py $(ARGS)

notebooks: ## run all notebooks anew and store what they give: make notebooks ONLY=07 SEED=3 (a seed: run only)
	@$(SETUP) lab,dev
	$(ONE_THREAD) $(BIN)/python -m rlkit.classroom execute $(if $(SEED),--seed $(SEED)) $(COURSE)

assignments: ## student versions of the notebooks, by nbgrader, in classroom/release: make assignments ONLY=07
	@$(SETUP) lab,classroom
	$(BIN)/python -m rlkit.classroom assignments $(COURSE)

autograde: ## grade a folder of <student>/<notebook>.ipynb: make autograde SUBMISSIONS=folder
	@$(SETUP) lab,classroom
	$(ONE_THREAD) $(BIN)/python -m rlkit.classroom autograde $(SUBMISSIONS)

slides: ## slides of the notebooks for reveal.js, in slides/: make slides ONLY=07 REVEAL=slides/node_modules/reveal.js (offline)
	@$(SETUP) lab,classroom
	$(BIN)/python -m rlkit.classroom slides $(if $(REVEAL),--reveal $(REVEAL)) $(COURSE)

badges: ## let badges and set-up cells lead to your copy: make badges ADDRESS=https://github.com/you/rlkit
	@$(SETUP) lab,classroom
	$(BIN)/python -m rlkit.classroom badges "$(ADDRESS)" $(COURSE)

lab: ## open JupyterLab on the notebooks
	@$(SETUP) lab
	$(ONE_THREAD) $(BIN)/jupyter lab notebooks $(ARGS)

bench: ## measure into benchmarks/results: make bench ONLY=logprobs ARGS=--quick (ONLY=smollm2, ppo_smollm2, patience: a real model)
	@$(SETUP) bench
	@set -e; for name in $(or $(ONLY),$(filter-out smollm2 ppo_smollm2 patience,$(basename $(notdir $(wildcard benchmarks/[a-z]*.py))))); do \
		echo "benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name $(ARGS); \
	done

lint: ## check style, formatting and types
	@$(SETUP) lab,dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: ## format the code
	@$(SETUP) lab,dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

model: ## rebuild the embedded model (same seed, same weights)
	@$(SETUP) ""
	$(ONE_THREAD) $(BIN)/python -m rlkit.embedded $(ARGS)

doctor: ## say what is installed, what runs on this machine, and what to do about the rest
	@$(SETUP) ""
	@$(BIN)/python -m rlkit.doctor

clean: ## remove the environment and all caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
