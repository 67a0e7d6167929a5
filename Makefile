# sf-healer: every target works from a clean checkout. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
comma := ,
# Hundreds of processes are started here, one after the other: they share their bytecode, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help venv demo up feed down test simulate mutants tutorial fuzz soak lab test-lab canary chaos chaos-soak steady-load bench bench-smoke screenshot check format lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  %-11s %s\n' "$$name" "$$text"; done

venv: $(READY) ## Build .venv from the hashed requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Python 3.11 to 3.13 needed, {sys.executable} is {sys.version.split()[0]}")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --requirement requirements.lock
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib # on all cores; pip compiles on one
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## Show it: five Jobs, two of them sick, healed in front of you (KEEP=1 stays up)
	$(BIN)/sf-healer demo $(if $(KEEP),--keep --env-file build/demo.env)

COMPOSE := docker compose $(foreach each,$(subst $(comma), ,$(PROFILES)),--profile $(each))

up: ## Kafka, detector and actuator in containers (PROFILES=observability,three-brokers for more)
	$(COMPOSE) up --build --wait

feed: $(READY) ## Feed them a capture: CAPTURE=FILE, SPEED=60
	$(BIN)/sf-healer feed $(CAPTURE) --bootstrap localhost:9092 --speed $(or $(SPEED),60)

down: ## End them and forget what they kept
	docker compose --profile '*' down --volumes

# Six processes for two cores: half of the time these tests wait for other processes.
test: $(READY) ## Unit, property, agent, embedded-broker and local-cluster tests
	$(PYTEST) --numprocesses 6 --dist worksteal -m 'not kafka and not kube and not prometheus and not browser and not image and not apart and not soak'

simulate: $(READY) ## SEEDS=50 worlds of two simulated hours each, on all cores, all fresh or FIXED=40 always the same (docs/simulation.md)
	$(BIN)/python -m tests.simulation --go-on --seeds $(or $(SEEDS),50) --fixed $(or $(FIXED),0)

fuzz: $(READY) ## MESSAGES=200000 hostile messages through the agents: all are accounted for
	$(BIN)/python -m tests.fuzz --fresh --messages $(or $(MESSAGES),200000)

mutants: $(READY) ## Put known faults into the simulation: each must be found, and nothing without it (SOME=10 of them)
	$(if $(SOME),SF_LAB_MUTANTS=$(SOME)) $(PYTEST) --numprocesses 2 --dist worksteal -m 'apart and not soak' tests/simulation

tutorial: $(READY) ## Follow docs/tutorial.md step by step: each command must print what the page says
	$(PYTEST) -m apart tests/docs

soak: $(READY) ## What takes long: 1,000 fresh worlds, then the tests marked soak (needs make lab)
	$(BIN)/python -m tests.simulation --go-on --seeds 1000
	$(PYTEST) -m soak

lab: $(READY) ## Set up the real components: Apache Kafka, a Kubernetes control plane, Argo Rollouts (Java, Maven, Go), Prometheus, axe-core
	$(BIN)/python -m tests.lab.kafka install
	$(BIN)/python -m tests.lab.kafka install --version 4.0.1
	$(BIN)/python -m tests.lab.kube install
	$(BIN)/python -m tests.lab.prometheus install
	$(BIN)/python -m tests.lab.browser install
	$(BIN)/python -m tests.lab.crds install
	$(BIN)/python -m tests.lab.argo install
	$(BIN)/python -m tests.lab.checkers install
	$(BIN)/python -m tests.lab.toxiproxy install
	$(BIN)/python -m tests.lab.traefik install

# Four processes, each with brokers and a control plane of its own: most of the time one waits for what it started.
test-lab: $(READY) ## The same scenarios against real Kafka and a real kube-apiserver; pages in a real browser (AGAIN=1: what failed)
	$(PYTEST) $(if $(AGAIN),--last-failed,--numprocesses 4 --dist loadfile --no-loadscope-reorder) -m '(kafka or kube or prometheus or browser or image) and not soak'

canary: $(READY) ## Canaries of queue-manager, good, slow, failing, unseen, by the real rollouts controller (needs make lab)
	$(PYTEST) tests/argo

chaos: $(READY) ## The experiments of litmus/ on real brokers and a control plane, and healers that must fail them (needs make lab)
	$(BIN)/python -m tests.chaos

chaos-soak: $(READY) ## The same experiments in any order for half an hour, under load (needs make lab)
	$(BIN)/python -m tests.chaos --soak-minutes 30

steady-load: $(READY) ## 20,000 reports/s for two minutes: how old does the watermark get (needs make lab)
	$(BIN)/python -m benchmarks.steady_load

bench: $(READY) ## Every engine on the same topics, side by side; writes docs/performance.md (ANEW=1 forgets what was measured)
	$(BIN)/python -m benchmarks $(if $(ANEW),--anew)

bench-smoke: $(READY) ## Is the worker still near the floor? Under a minute; fails only on a ratio of one run
	$(BIN)/python -m benchmarks.smoke

screenshot: $(READY) ## Draw the picture of the README anew, from what the commands print beside a demo
	$(BIN)/python -m tests.docs.screenshot

check: $(READY) ## Lint, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet . || true
	$(BIN)/ruff format .

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

lock: ## Rewrite requirements.lock and what of it the image takes (hashes for every platform, no index addresses)
	$(LOCK) --extra embedded --group dev pyproject.toml --output-file requirements.lock
	$(LOCK) --group build --constraint requirements.lock pyproject.toml --output-file requirements-image.lock

clean: ## Remove what the targets built here (the lab's cache stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
