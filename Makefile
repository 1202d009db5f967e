# make smoke    train the three variants on the embedded digits and grade the result (a minute after installation)
# make test     formatting, lint, types, import order and the tests, except long ones and those that need containers
# make bench    the benchmarks, written to docs/benchmarks.md (hours); make test runs the short ones once
# make gpu      check and measure on an NVIDIA GPU, written to docs/gpu.md: make gpu-check, then make gpu-bench
# make slow     the long tests, at their usual length
# make soak     the long fault tests: 50 kills, 2,000 fuzzed inputs per test, 200 epochs, 100,000 files (an hour)
# make container   the container tests, on a Docker engine started for them (Debian or Ubuntu, as root)
# make lock     resolve requirements/*.lock again (needs uv)

PYTHON ?= python3
BIN := .venv/bin
GPU_PYTHON ?= $(BIN)/python
GPU_DATA ?= ../shared/data

.PHONY: smoke test bench gpu gpu-check gpu-bench slow soak container check lock clean

smoke: .venv/installed
	out=runs/smoke-$$(date +%Y%m%d-%H%M%S); $(BIN)/finetune train --preset smoke --out $$out && $(BIN)/grader $$out

test: check
	$(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal -m "not slow and not container" --benchmark-disable

bench: .venv/installed
	$(BIN)/pytest tests/benchmarks --benchmark-only
	$(BIN)/python -m tests.benchmarks.write

gpu: gpu-check gpu-bench

# On a machine without network: GPU_PYTHON=python3 and what docs/gpu.md says.
gpu-check: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),.venv/installed)
	$(GPU_PYTHON) -m pytest tests/gpu

gpu-bench: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),.venv/installed)
	$(GPU_PYTHON) -m tests.benchmarks.gpu --data $(GPU_DATA)

slow: .venv/installed
	$(BIN)/pytest -m "slow and not container"

soak: .venv/installed
	FAULTS_KILLS=50 FAULTS_EXAMPLES=2000 FAULTS_MUTATIONS=1000 $(BIN)/pytest -s tests/faults

container: .venv/installed
	.ci/container

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed: pyproject.toml requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required; name it: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

lock:
	for part in grade: train:--extra=train dev:--extra=dev; do \
	  uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-strip-extras \
	    --python-version 3.11 \
	    $${part#*:} pyproject.toml -o requirements/$${part%%:*}.lock; \
	done
	printf 'hatchling>=1.27\n' | uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 - -o deploy/build.lock

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
