# Two commands: `make demo` trains one model over two sites, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check clean

demo: .venv/ready
	$(BIN)/isthmus demo

test: .venv/ready-dev
	$(BIN)/pytest -n 2

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pyright

clean:
	rm -rf .venv demo-run

.venv/bin/python:
	@$(PYTHON) -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || { \
	  echo "error: $(PYTHON) must be Python 3.11 or newer with venv (Debian: apt install python3-venv);" \
	       "or name another: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/ready: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing isthmus and PyTorch into .venv; the first time this takes a few minutes"
	$(PIP) --editable .
	@touch $@

.venv/ready-dev: .venv/ready
	@echo "installing what the tests and checks need"
	$(PIP) --editable '.[dev]'
	@touch $@
