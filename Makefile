# Every command of the project. `make help` lists them; each installs what it needs.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
FAULTS ?= *
export PYTHONPATH := scripts
LOCAL_CLUSTER := $(PYTHON) -m local_cluster
TYPED := operator trainer-image scripts/local_cluster scripts/demo scripts/generation scripts/generate.py

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast test-control-plane test-apiserver test-faults test-trainer \
        test-nodes test-local-cluster test-cluster check format generate verify lock \
        images cluster-up cluster-status cluster-down bench-control bench-r8 bench-memory bench-train faults

help:  ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | column -t -s $$'\t'

venv:  ## .venv with the locked dependencies
	@scripts/bootstrap

demo: venv  ## A real Kubernetes on this machine, the operator in it, and one FineTuneJob from apply to ONNX
	@$(BIN)/python -m demo

cluster-up:  ## Find or start a Kubernetes (KUBE_CONTEXT, else kind with Docker, else on this host)
	@$(LOCAL_CLUSTER) up

cluster-status:  ## What of it runs
	@$(LOCAL_CLUSTER) status

cluster-down:  ## Take away everything that cluster-up made; caches stay
	@$(LOCAL_CLUSTER) down

images: venv  ## Build both images and load them into the cluster
	@$(BIN)/python -c 'from demo.installation import make_images; print(make_images())'

test: check test-fast  ## Every test; those that wait for a Kubernetes run beside those that compute
	@$(MAKE) --no-print-directory --jobs 3 --output-sync=target test-trainer test-control-plane test-nodes

test-fast: venv  ## Unit tests: no cluster, no training
	$(BIN)/pytest tests/unit -n 2 -q

test-control-plane:
	@$(MAKE) --no-print-directory test-apiserver
	@$(MAKE) --no-print-directory test-faults

test-nodes:
	@$(MAKE) --no-print-directory test-local-cluster
	@$(MAKE) --no-print-directory test-cluster

test-apiserver: venv  ## The operator, the CRD and the chart against a real API server and controller manager
	$(BIN)/pytest tests/apiserver tests/chart -q

test-faults: venv  ## Real Kueue, and a selection of the fault campaigns
	$(BIN)/pytest tests/queues tests/faults -q

test-trainer: venv  ## The stages on tiny models of the Llama, Qwen, Phi and Gemma architectures
	OMP_NUM_THREADS=1 nice -n 10 $(BIN)/pytest tests/trainer -n 2 -q

test-local-cluster: venv  ## The Kubernetes on this machine comes and goes without a trace
	$(BIN)/pytest tests/cluster_tool -q

test-cluster: venv  ## End to end, with real pods on the local cluster
	$(BIN)/pytest tests/cluster -q

bench-control: venv  ## Speed, requests and memory of the operator and of Kubeflow Trainer; BENCH="--jobs 1000 --rate 10" and more: --help
	PYTHONPATH=benchmarks:scripts:tests $(BIN)/python -m control $(BENCH)

bench-r8: venv  ## Accuracy of a LoRA classifier and of a linear model on Reuters R8; an hour on two cores; BENCH="--steps 100"
	PYTHONPATH=benchmarks:scripts $(BIN)/python -m r8 $(BENCH)

bench-memory: venv  ## Estimated and measured memory of training SmolLM2-135M on a CPU; BENCH="--points 0 3": --help
	PYTHONPATH=benchmarks:scripts nice $(BIN)/python -m memory $(BENCH)

bench-train: venv  ## Speed, memory and loss of this trainer and of TRL at its defaults, in one run; BENCH="--steps 24": --help
	PYTHONPATH=benchmarks:scripts $(BIN)/python -m train $(BENCH)

faults: venv  ## Every fault campaign; FAULTS='kill/before/*' runs a part, and a failure tells how to replay it
	PYTHONPATH=tests:scripts $(BIN)/python -m faults run '$(FAULTS)'

check: venv verify  ## Lint, types, direction of imports, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports

format: venv  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

generate: venv  ## CRD, chart copy and reference pages from the models
	$(BIN)/python scripts/generate.py

verify: venv  ## Fail when a generated file is stale
	$(BIN)/python scripts/generate.py --check

lock: venv  ## Resolve requirements/constraints.txt anew
	scripts/lock
