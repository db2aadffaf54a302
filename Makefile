# make demo | test | test-full | docs: each creates .venv when it is missing, installs the pinned packages and checks Java.
PYTHON ?= python3.11
VENV := .venv
# Processes of the tests, each with a Spark driver of 3 GB; the tests of a file stay in one (tests/conftest.py).
WORKERS ?= 2
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test test-full lint docs java clean

demo: $(STAMP) java
	$(RUN) -m jobs.pipeline --conf conf/demo.yml

test: $(STAMP) java lint
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-full: $(STAMP) java lint
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy alure_spark jobs benchmarks docs

docs: $(STAMP)
	$(RUN) -m mkdocs build --strict

java: $(STAMP)
	@$(RUN) -c "from alure_spark.session import require_java; from alure_spark.errors import AlureError; import sys; \
	exec('try: require_java()\nexcept AlureError as error: sys.exit(str(error))')"

$(STAMP): setup.py constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 was not found: install python3.11 and python3.11-venv, or give make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt pip setuptools wheel
	$(RUN) -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev,demo,petastorm]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) out site lake mlflow.db mlartifacts *.egg-info
