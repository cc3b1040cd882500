# Two commands on a fresh machine with Python 3.11: `make run` and `make test`. A second call does no work twice.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
APP := $(VENV)/.stamp-app
DEV := $(VENV)/.stamp-dev
PORT ?= 8501
HEADLESS := $(if $(or $(DISPLAY),$(WAYLAND_DISPLAY),$(filter Darwin,$(shell uname))),false,true)

.PHONY: run test test-all fix bench clean browser

run: $(APP)
	$(BIN)/python -m core warm >/dev/null
	$(BIN)/streamlit run app.py --server.port $(PORT) --server.headless $(HEADLESS)

# torch first: where a CPU build is at hand it satisfies what the other packages ask for
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

$(APP): requirements.txt constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

$(DEV): requirements-dev.txt $(APP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

# Chromium for the browser tests, where Debian packages can be had; the tests skip with a reason elsewhere
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } 2>/dev/null; } || \
	  echo "no chromium here: browser tests will be skipped"

test: $(DEV) browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not browser"
	$(BIN)/python -m pytest -m "browser and not slow"

test-all: $(DEV) browser
	$(BIN)/python -m pytest -m "slow or not slow"

fix: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
