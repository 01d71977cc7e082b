# Two commands set everything up on a fresh machine: `make lab` (the main job, end to end) and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/medllm-cluster
UV_VERSION := 0.13.9
PYTHON ?= python3

# One cache directory for everything; byte-compiled, or each rank compiles torch again (5-13 s an import).
export UV_CACHE_DIR := $(CACHE)/uv
export UV_COMPILE_BYTECODE := 1
export DS_BUILD_OPS := 0
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv system lab test test-all check lint types unit clean rehearse pulumi-up

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(CACHE)/tools/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(CACHE)/tools || { echo "Fix: apt-get install python3-venv"; exit 2; }
	$(CACHE)/tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.synced: uv.lock pyproject.toml | $(CACHE)/tools/bin/uv
	$(CACHE)/tools/bin/uv sync --frozen --all-extras --python $(PYTHON)
	@touch $@

venv: $(VENV)/.synced ## Make the virtual environment from uv.lock

system: venv ## Install the system packages that the lab and the tests need
	$(BIN)/python -m lab.host_packages

lab: system ## The main job: lab up, bring-up, data, training, acceptance; ends with the dossier
	$(BIN)/medllm lab run

check: venv ## Lint, types, unit tests (< 3 min)
	$(BIN)/python -m tests.gate check

test: system ## The gate: check, then one case of each kind on the lab
	$(BIN)/python -m tests.gate test

test-all: system ## Everything, repeated (each drill DRILL_RUNS=3 times); the report goes to benchmarks/results/
	$(BIN)/python -m tests.gate test-all

rehearse: system ## Train again on the running lab and prove the restore
	$(BIN)/medllm lab run --from training

pulumi-up: system ## The Kubernetes column on the lab: control plane, kubelets, `pulumi up` (builds its tools once, 25 min)
	$(BIN)/medllm lab up
	$(BIN)/medllm lab kubernetes up
	$(BIN)/medllm site export -i inventory/lab -o pulumi/site-lab.json
	mkdir -p pulumi/state
	eval "$$($(BIN)/medllm lab kubernetes env)"; cd pulumi; pulumi stack select --create lab; \
	  export MEDLLM_MOVE_TO_CLUSTER="$$(kubectl get namespace kube-system -o jsonpath='{.metadata.uid}')"; \
	  pulumi up --refresh --yes --non-interactive

clean: ## Take the lab down and remove what was built here (the cache stays)
	-[ ! -x $(BIN)/medllm ] || $(BIN)/medllm lab down --purge
	rm -rf $(VENV) build dist *.egg-info pulumi/state
	sed -i '/^encryptionsalt:/d' pulumi/Pulumi.lab.yaml
