# What a person does with this project.  `make help` lists it.
#
# Each target does its own set-up: Debian packages that are missing (as root),
# a virtual environment per Python under .venv/, and the C modules, built in place.

PYTHON ?= python3
NEWEST = $(shell scripts/pythons.sh | tail -n 1)
RUN = set -eu; venv=$$(scripts/venv.sh
REPORT ?= build/benchmarks
BENCH_FILES = --json "$(REPORT)/results.json" --html "$(REPORT)/page.html"

.PHONY: help probe test test-python test-native test-servers test-modern test-fresh founding-run stress torture lint bench bench-full bench-smoke bench-report bench-compare wheel wheels docs clean system system-servers system-torture system-bench

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

system:
	@scripts/system-packages.sh

system-servers:
	@scripts/system-packages.sh servers browser
	@scripts/servers.sh

probe: system  ## show which backend really shares on this machine (PYTHON=python3.13 OPTIONS="--html page.html")
	@$(RUN) "$(PYTHON)"); "$$venv/bin/python" -m sharedstate probe $(OPTIONS)

test:  ## run every test on every supported Python that is here, and on real servers
	@scripts/system-packages.sh servers browser torture
	@scripts/test-all.sh

test-python: system  ## run the Python tests on one Python (PYTHON=python3.12 TESTS=tests/unit)
	@$(RUN) "$(PYTHON)" test); "$$venv/bin/pytest" $(TESTS)

test-servers: system-servers  ## start real web servers and test in them (TESTS=tests/servers/test_harness.py)
	@$(RUN) "$(NEWEST)" test); "$$venv/bin/pytest" -n 2 $(or $(TESTS),tests/servers)

test-native: system  ## run the C core's own tests: plain, AddressSanitizer and UBSan, ThreadSanitizer
	@$(MAKE) --no-print-directory -C tests/native all

test-modern:  ## run the Python and the server tests on Debian forky, with its Python and mod_wsgi, in a root of its own
	@scripts/debian-root.sh forky scripts/test-modern.sh

test-fresh:  ## set everything up in a fresh Debian 12, and run the server tests there
	@scripts/debian-root.sh bookworm sh -c 'apt-get update -qq && apt-get install -y -qq make >/dev/null && make test-servers'

founding-run: system-servers  ## disturb many servers at their tasks, three times each way, and write docs/founding-run.md
	@$(RUN) "$(NEWEST)" test); SHAREDSTATE_FOUNDING_RUN=docs/founding-run.md "$$venv/bin/pytest" -s tests/servers/test_founding.py

stress: system  ## kill one of four writing processes every 50 ms, for 30 s on each backend (PYTHON=python3.13)
	@$(RUN) "$(PYTHON)" test); SHAREDSTATE_STRESS_S=30 "$$venv/bin/pytest" -s tests/stress

torture: system-torture  ## try for hours to break every promise; figures into docs/guarantees.md (HOURS=1)
	@$(RUN) "$(NEWEST)" test); scripts/torture.sh "$$venv" "$(or $(HOURS),1)"

lint: system  ## check style, types and layers
	@$(RUN) "$(NEWEST)" dev); scripts/lint.sh "$$venv"

system-torture:
	@scripts/system-packages.sh torture

system-bench:
	@scripts/system-packages.sh bench
	@scripts/venv.sh "$(NEWEST)" bench >/dev/null
	@scripts/venv.sh "$(NEWEST)" bench-built >/dev/null || echo "Not all peers build on this Python: they are left out." >&2

bench: system-bench  ## compare the backends with their peers in under 5 minutes; writes a page (OPTIONS="--only 'get-*'")
	@$(RUN) "$(NEWEST)" bench); "$$venv/bin/python" -m benchmarks --quick $(BENCH_FILES) $(OPTIONS)

bench-full: system-bench  ## the same with more rounds, for as long as it takes (REPORT=docs/benchmark-report)
	@$(RUN) "$(NEWEST)" bench); "$$venv/bin/python" -m benchmarks $(BENCH_FILES) $(OPTIONS)

bench-smoke: system-bench  ## run every benchmark for an instant, so that none rots
	@$(RUN) "$(NEWEST)" bench); "$$venv/bin/python" -m benchmarks --smoke $(OPTIONS)

bench-report: system-bench  ## put the figures of docs/benchmark-report into README.md and docs/benchmarks.md
	@$(RUN) "$(NEWEST)" bench); "$$venv/bin/python" -m benchmarks.headline

bench-compare: system-bench  ## compare two revisions of ours (A=main B=WORK OPTIONS="--only get-int")
	@$(RUN) "$(NEWEST)" bench); "$$venv/bin/python" -m benchmarks.compare "$(or $(A),HEAD)" "$(or $(B),WORK)" $(OPTIONS)

wheel: system  ## build the wheel and the sdist into dist/
	@$(RUN) "$(PYTHON)" dev); "$$venv/bin/python" -m build --outdir dist .

wheels: system  ## build the sdist and a wheel for each Python here into dist/, and test each (PYTHONS="...")
	@scripts/wheels.sh $(PYTHONS)

docs:  ## build the documentation site into build/site
	@scripts/docs.sh

clean:  ## remove what the other targets made
	rm -rf .venv build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find sharedstate backends -name '*.so' -delete
	$(MAKE) --no-print-directory -C tests/native clean
