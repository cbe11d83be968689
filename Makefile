# Each target sets up the environment if needed, then runs one plain command in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages
READY := $(VENV)/.ready
# One worker per core, at most four: each starts its own Spark (2 GB).
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help run test test-all lint workflows viz site notebook bench package lock clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(READY) ## run the default pipelines on the committed sample (RUN="--params window=10" adds options)
	$(BIN)/kedro run $(RUN)

test: $(READY) ## run all but the slow tests, on up to four cores (TEST="-k windows" adds options)
	@sh scripts/system.sh browser
	$(BIN)/pytest $(PARALLEL) -m "not slow" $(TEST)

test-all: $(READY) ## run all tests, also the slow ones: Databricks, gate calibration, benchmarks
	@sh scripts/system.sh browser
	$(BIN)/pytest $(PARALLEL) $(TEST)

lint: $(PACKAGES) ## check style, format, types, imports and the workflows' security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/zizmor --offline --quiet .github

workflows: ## lint the GitHub workflows (needs Go)
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

viz: $(PACKAGES) ## show the pipelines as a graph in a browser
	$(BIN)/kedro viz run

site: $(PACKAGES) ## build the site of GitHub Pages in site/: the last run's report, and the graph
	$(BIN)/python scripts/site.py

# The kernel with Kedro's extension is kept in the environment, not in the user's home.
notebook: $(READY) ## open the notebooks in JupyterLab, with the catalog loaded
	JUPYTER_DATA_DIR=$(CURDIR)/$(VENV)/share/jupyter $(BIN)/kedro jupyter lab notebooks

bench: $(READY) ## measure speed against peers in this environment
	$(BIN)/python benchmarks/bench.py

package: $(PACKAGES) ## build the wheel in dist/
	@sh scripts/wheel.sh $(BIN)/python
	@ls dist/*.whl

LOCK := uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --quiet
lock: ## update both lock files from pyproject.toml (needs uv)
	$(LOCK) --extra local --extra dev --group release pyproject.toml -o requirements.lock
	$(LOCK) --group release --constraints requirements.lock -o requirements-release.lock

clean: ## remove the environment and all output of runs; keep the sample
	rm -rf $(VENV) .viz build dist site data/fetched data/mlflow data/matplotlib data/reporting data/run.lock data/spark data/tables data/training data/yahoo

# The environment: the locked packages (all of them: --no-deps) and this project, by uv; by pip where uv fails, such as
# with an index of pip's own configuration, which uv does not read. Runs also need Java for Spark and Delta's two jars.
QUIET := --quiet --disable-pip-version-check
LOCKED := --quiet --no-deps --require-hashes --requirement requirements.lock
$(PACKAGES): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
	  f"candlecast needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}. Choose another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages in $(VENV): 2 GB, once"
	@$(BIN)/pip install $(QUIET) uv==0.13.9 && $(BIN)/uv pip install --python $(BIN)/python $(LOCKED) || \
	  { echo "Installing them by pip instead"; $(BIN)/pip install --no-compile $(LOCKED); }
	@$(BIN)/pip install $(QUIET) --no-deps --no-build-isolation --editable .
	@touch $@

$(READY): $(PACKAGES) scripts/system.sh
	@sh scripts/system.sh java
	@echo "Fetching Delta's two jars for Spark and compiling the packages, once"
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib & \
	$(BIN)/python -m candlecast.runtime.spark; status=$$?; wait; exit $$status
	@touch $@
