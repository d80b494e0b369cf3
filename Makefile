# `make demo` and `make test` need only Python >= 3.11 and make: they create .venv and install into it.
# PYTHON chooses the interpreter; PIP_ARGS is passed to pip, for example
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/latentsync sync examples/portrait.mp4 examples/speech.wav -o out.mp4 --force
	@echo "The result is $(CURDIR)/out.mp4"

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The pages are $(CURDIR)/build/docs/index.html"

clean:
	rm -rf $(VENV) build dist

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11"; \
	  echo "hint:  name a newer one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "Installing into $(VENV): 6.5 GB with CUDA, under 3 GB without; minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "Installing into $(VENV): 6.5 GB with CUDA, under 3 GB without; minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "Installing into $(VENV): 6.5 GB with CUDA, under 3 GB without; minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[docs]'
	@touch $@
