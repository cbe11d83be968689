# Thin: each target sets up the environment once, then types one plain command in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages
READY := $(VENV)/.ready
# A worker per core, each with a Spark of its own (2 GB): no more than four.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: help run test test-all lint workflows viz bench package lock clean
help: ## what there is to type
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(READY) ## the three pipelines on the committed sample (RUN="--params window=10" adds to it)
	$(BIN)/kedro run $(RUN)

test: $(READY) ## the tests but the slow ones, on every core (TEST="-k windows" adds to it)
	@sh scripts/system.sh browser
	$(BIN)/pytest $(PARALLEL) -m "not slow" $(TEST)

test-all: test ## those, then the slow ones: both kinds of Databricks sessions, the gate's rates, the benchmarks
	$(BIN)/pytest $(PARALLEL) -m slow

lint: $(PACKAGES) ## the linter, the format, the types, the imports, the workflows' security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/zizmor --offline --quiet .github

workflows: ## the linter of the GitHub workflows (needs Go)
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

viz: $(PACKAGES) ## the pipelines as a graph, in a browser
	$(BIN)/kedro viz run

bench: $(READY) ## speed against peers, in this same environment
	$(BIN)/python benchmarks/bench.py

package: $(PACKAGES) ## the wheel, in dist/
	@sh scripts/wheel.sh $(BIN)/python
	@ls dist/*.whl

LOCK := uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --quiet
lock: ## resolve pyproject.toml again into both lock files (needs uv)
	$(LOCK) --extra local --extra dev --group release pyproject.toml -o requirements.lock
	$(LOCK) --group release --constraints requirements.lock -o requirements-release.lock

clean: ## remove the environment and what runs wrote; the sample stays
	rm -rf $(VENV) build dist data/fetched data/mlflow data/matplotlib data/reporting data/run.lock data/spark data/tables data/training data/yahoo

# The environment: the locked packages and this project; what runs need beside them is a Java for
# Spark and Delta's two jars.
$(PACKAGES): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  f"candlecast needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(READY): $(PACKAGES) scripts/system.sh
	@sh scripts/system.sh java
	$(BIN)/python -m candlecast.runtime.spark
	@touch $@
