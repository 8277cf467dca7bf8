# Every target works on a new machine: `setup` makes .venv and is quick when nothing has changed.
PYTHON ?= python3.11
BIN := .venv/bin
# A machine with an NVIDIA driver gets the GPU build of vLLM and FAISS, any other the CPU build. Override: make setup EXTRA=cpu
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
STAMP := .venv/.installed-$(EXTRA)

.PHONY: setup demo test test-unit chaos lint bench-serve bench-quality bench-label bench-scale clean

setup: $(STAMP)

# Bytecode is written at once: containers often forbid it later, and then each worker of Ray compiles torch and vLLM anew (11 s).
# uv does not read pip's find-links, where a machine may keep its own CPU build of torch; hand it over.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null  # a .venv that uv made has no pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	links=$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true); \
	VIRTUAL_ENV=$(CURDIR)/.venv UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$links}}" \
	$(BIN)/uv pip install --quiet --compile-bytecode --editable '.[$(EXTRA),offline,dev]'
	touch $@

demo: setup
	$(BIN)/semievol demo

# Two files at a time: most of what a test waits for is the start of a process, which leaves a core idle.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-unit: setup
	$(BIN)/python -m pytest tests/unit

chaos: setup
	SEMIEVOL_CHAOS_KILLS=20 $(BIN)/python -m pytest tests/chaos -s

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-serve: setup
	$(BIN)/python -m benchmarks.serve

bench-quality: setup
	$(BIN)/python -m benchmarks.quality

bench-label: setup
	$(BIN)/python -m benchmarks.label

bench-scale: setup
	$(BIN)/python -m benchmarks.scale

clean:
	rm -rf .venv
