# make smoke    train the three variants on the embedded digits and grade the result (a minute after installation)
# make test     formatting, lint, types, import order and the tests, except long ones and those that need containers
# make bench    the benchmarks, written to docs/benchmarks.md (hours); make test runs the short ones once
# make gpu      check and measure on an NVIDIA GPU, written to docs/gpu.md: make gpu-check, then make gpu-bench
# make slow     the long tests, at their usual length
# make soak     the long fault tests: 50 kills, 2,000 fuzzed inputs per test, 200 epochs, 100,000 files (an hour)
# make container   the container tests, on a Docker engine started for them (Debian or Ubuntu, as root)
# make docs     the documentation site, in build/site: open build/site/index.html
# make lock     resolve requirements/*.lock again (needs uv)

# Without an NVIDIA driver, most of CUDA's libraries are left out; CUDA=1 or CUDA=0 decides instead of the driver.
# TORCH_INDEX_URL, with CUDA=0, names an index of CPU wheels, which are smaller still (docs/container.md).

PYTHON ?= python3
BIN := .venv/bin
DRIVER := $(wildcard /proc/driver/nvidia/version /sys/module/nvidia /usr/lib/wsl/lib/libcuda.so.1)
CUDA ?= $(if $(DRIVER),1,0)
KIND := $(if $(filter 1,$(CUDA)),cuda,cpu)
GPU_PYTHON ?= $(BIN)/python
GPU_DATA ?= ../shared/data

.PHONY: smoke test bench gpu gpu-check gpu-bench slow soak container docs check lock clean another-kind

smoke: .venv/installed
	out=runs/smoke-$$(date +%Y%m%d-%H%M%S); $(BIN)/finetune train --preset smoke --out $$out && $(BIN)/grader $$out && echo "Report: $$out/report.html"

# With bytecode even where Python is told to write none: each process would compile Hypothesis and the tests anew.
test: export PYTHONDONTWRITEBYTECODE =
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

docs: .venv/installed
	$(BIN)/python -m tests.docs.pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github

# The file says which kind is installed: a driver that came later calls for the rest.
.venv/installed: pyproject.toml requirements/dev.lock $(if $(filter $(KIND),$(shell cat .venv/installed 2> /dev/null)),,another-kind)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required; name it: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python deploy/install.py requirements/dev.lock $(KIND)
	$(BIN)/pip install --quiet --no-deps --editable .
	echo $(KIND) > $@

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
