# Each target first makes the environment $(VENV) when it is missing or older than pyproject.toml or constraints.txt.
#   make demo    builds a model for this machine from the bundled data into build/demo (8 minutes on two cores with bfloat16, longer on others)
#   make test    all tests but those marked `system`;  make test PYTEST_ARGS='-k device -x'
#   make check   the linters and the tests;  make lint   the linters alone
#   make clean   removes what was built; the environment stays
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

# PyPI's torch for Linux is a CUDA build of several GB; PyTorch's own index has the CPU build. It is used on Linux when it
# answers within 3 seconds. TORCH_INDEX= (empty) takes torch from wherever pip is set up to look.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
INDEX_ANSWERS = import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=3)

BIN := $(VENV)/bin
STAMP := $(VENV)/.edgenas-installed

.PHONY: demo test check lint clean
.DEFAULT_GOAL := test

demo: $(STAMP)
	$(BIN)/edgenas build --device host --effort quick --out build/demo

# what measures this machine runs after all else, with nothing beside it; pytest's 5 is "no tests", of one part of a selection
test: $(STAMP)
	@most=0; alone=0; \
	$(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder -m "not system and not alone" $(PYTEST_ARGS) || most=$$?; \
	$(BIN)/python -m pytest -m "alone and not system" $(PYTEST_ARGS) || alone=$$?; \
	case "$$most $$alone" in "0 0"|"0 5"|"5 0") ;; *) exit 1 ;; esac

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { found=$$($(PYTHON) --version 2>/dev/null) || found="not there"; \
	    echo "edgenas needs Python 3.11 or newer, but $(PYTHON) is $$found. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) could not make an environment in $(VENV). On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@index=; \
	if [ "$$(uname -s)" = Linux ] && [ -n "$(TORCH_INDEX)" ]; then \
	  if $(PYTHON) -c '$(INDEX_ANSWERS)' "$(TORCH_INDEX)" 2>/dev/null; then index="--extra-index-url $(TORCH_INDEX)"; \
	  else echo "$(TORCH_INDEX) does not answer: torch comes from pip's own indexes (PyPI's build is several GB)." >&2; fi; \
	fi; \
	set -x; $(BIN)/python -m pip install --disable-pip-version-check $$index -c constraints.txt -e '.[dev]'
	@touch $@
