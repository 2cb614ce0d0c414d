# `make demo` and `make test` set up all that they need; a second run starts within seconds.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
DATA ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
# Tests of numbers run a second time, under a BLAS kernel and a number of threads that round otherwise.
OTHER_KERNEL := OPENBLAS_CORETYPE=Sandybridge QANCHOR_TEST_THREADS=2
NUMERIC_TESTS := $(addprefix tests/unit/,test_metrics.py test_segments.py test_linear_probe.py \
  audience experiments explain heads model report)
DOCLINT := --style=google --arg-type-hints-in-docstring=False --check-return-types=False \
  --skip-checking-short-docstrings=True --skip-checking-raises=True --check-class-attributes=False \
  --allow-init-docstring=True

.PHONY: demo test test-kafka nightly check format services services-stop bench clean setup help

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/installed  ## create .venv and install the project with its pinned dependencies

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@# torch first and pinned: a range would take the newest build with gigabytes of GPU libraries.
	@$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --group dev --editable '.[postgres,redis]'
	@touch $@

demo: .venv/installed  ## run the whole chain; DATA=DIR takes real input instead of the simulated world
	@$(BIN)/qanchor-cli demo $(if $(DATA),--data $(DATA)) $(DEMO_ARGS)

test: check services  ## lint, types, layers, every test with coverage, those of numbers under a second BLAS kernel
	@set -a; . .services/env; set +a; \
	  $(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered $(PYTEST_ARGS); code=$$?; \
	  .ci/services stop; exit $$code
	@$(if $(PYTEST_ARGS),,$(OTHER_KERNEL) $(BIN)/python -m pytest -q -n 2 --dist loadgroup $(NUMERIC_TESTS))

check: .venv/installed  ## ruff, mypy, import-linter, pydoclint, vulture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/flake8 --isolated --select=DOC --extend-ignore=DOC101,DOC103,DOC201,DOC402,DOC404 $(DOCLINT) qanchor consumers cli
	@$(BIN)/vulture

format: .venv/installed  ## format and fix what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# A folder with the jars of Apache Kafka; without one, Maven brings them.
QANCHOR_TEST_KAFKA_LIBS ?= $(CURDIR)/.kafka/libs
KAFKA_TESTS := tests/integration/test_streaming.py tests/integration/test_dead_letters.py tests/integration/test_crash_points.py tests/integration/test_unreadable.py tests/integration/test_refusals.py tests/integration/test_topics_that_change.py

test-kafka: .venv/installed  ## the Kafka tests on the embedded broker and on Apache Kafka (java, and mvn where no jars are named)
	@test -d "$(QANCHOR_TEST_KAFKA_LIBS)" || mvn -q -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$(QANCHOR_TEST_KAFKA_LIBS)"
	@QANCHOR_TEST_KAFKA_LIBS="$(QANCHOR_TEST_KAFKA_LIBS)" $(BIN)/python -m pytest -n 2 --dist loadgroup $(KAFKA_TESTS) $(PYTEST_ARGS)

nightly: .venv/installed services  ## the long proof: 300 consumers killed at random (ten minutes)
	@set -a; . .services/env; set +a; \
	  QANCHOR_TEST_KILLS=300 $(BIN)/python -m pytest tests/integration/test_chaos.py tests/integration/test_crash_points.py $(PYTEST_ARGS); code=$$?; \
	  .ci/services stop; exit $$code

services:  ## PostgreSQL, Redis and Chromium for the tests that want them, on loopback
	@.ci/services start

services-stop:  ## stop what `make services` started
	@.ci/services stop

bench: .venv/installed  ## run one benchmark: make bench NAME=world
	@$(BIN)/python -m benchmarks.$(NAME) $(BENCH_ARGS)

clean:  ## remove what the demo and the tests left; keep .venv
	@rm -rf .demo .services .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* benchmarks/results
