# Two commands do everything on a fresh Debian machine, as root or with sudo: `make demo` and `make test`.

VENV := .venv
INV := $(VENV)/bin/inv

.PHONY: help demo test test-fast test-long setup clean

help:
	@echo "make demo       a two-node cluster on this machine, and the whole life of a VM on it"
	@echo "make test       lint, types, unit tests and the tests on the lab"
	@echo "make test-fast  the same without the lab: seconds"
	@echo "make test-long  the tests of many rounds, on the lab and without: hours; LEFT=1 goes on with it"
	@echo "make setup      install what these need: Debian packages, a venv in $(VENV)"
	@echo "make clean      remove the venv; inv lab.clean removes the lab's images first"

demo: setup
	@$(INV) demo

test: setup
	@$(INV) test

test-fast: setup
	@$(INV) test --fast

test-long: setup
	@$(INV) test --long $(if $(LEFT),--left)

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml setup.sh
	@./setup.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV)
