# make demo      train, look inside and write a report on drawn images, in demo/
# make report    write report/ and the two in it again: no training, no data
# make test      run the linter, then the whole test suite
# make test-ray  install Ray and run the tests that need it
# make soak      kill trainings and damage files for SOAK_MINUTES (20)
# make clean     remove demo/ and what tests left; .venv stays

VENV := .venv
PYTHON := $(VENV)/bin/python
DEMO_CNN := demo/cnn_synthetic/adagrad-lr0.01-e3-synthetic-b64-s0

.PHONY: help demo report test test-ray soak clean

# `make` alone shows the lines above.
help:
	@sed -n 's/^# make /make /p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed
	$(PYTHON) cnn_cifar10.py --data synthetic --batch-size 64 --epochs 3 --runs-dir demo --overwrite
	$(PYTHON) rnn_mnist.py --data synthetic --epochs 3 --runs-dir demo --overwrite
	$(PYTHON) visualize.py $(DEMO_CNN) --tensorboard
	$(PYTHON) report.py --grid demo.toml --no-train --data synthetic --precision fp32 --runs-dir demo --out demo/report
	@echo
	@echo "Both runs are in demo/. To see their curves, filters and confusion matrices:"
	@echo "    $(VENV)/bin/tensorboard --logdir demo"
	@echo "What the CNN has learned: open $(DEMO_CNN)/figures/index.html in a browser."
	@echo "Their report: open demo/report/index.html in a browser."

report: $(VENV)/.installed
	$(PYTHON) report.py --no-train --seeds 10 --runs-dir report/runs --out report
	$(PYTHON) report.py --grid recipes.toml --no-train --precision bf16 --runs-dir report/recipes/runs --out report/recipes
	$(PYTHON) report.py --grid paper.toml --no-train --seeds 3 --runs-dir report/paper/runs --out report/paper

test: $(VENV)/.installed-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pytest -n 2

test-ray: $(VENV)/.installed-ray
	$(PYTHON) -m pytest -m ray tests/test_ray.py

soak: $(VENV)/.installed-dev
	SOAK_MINUTES=$${SOAK_MINUTES:-20} $(PYTHON) tests/soak.py

clean:
	rm -rf demo .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The virtual environment, made again only when the requirements change. If something is missing, one sentence says so.
$(VENV)/.installed: requirements.txt
	@command -v python3 >/dev/null || { echo "error: python3 is missing; install Python 3.11 or newer" >&2; exit 2; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; python3 is $$(python3 --version)" >&2; exit 2; }
	@python3 -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: this Python has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	python3 -m venv $(VENV)
	@echo "installing PyTorch and the rest into $(VENV) (several GB, a minute or more) ..."
	$(PYTHON) -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PYTHON) -m pip install --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-ray: requirements-ray.txt $(VENV)/.installed-dev
	$(PYTHON) -m pip install --quiet -r requirements-ray.txt
	@touch $@
