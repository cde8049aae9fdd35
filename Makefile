# SPDX-License-Identifier: GPL-2.0
# The doors of this repo: every target is one line of lab/. `make help` lists them.

PYTHON	:= /usr/bin/python3
SERIES	:= $(PYTHON) lab/series.py
MACHINE	?= um
T	?= *
CMD	?= uname -a

.DEFAULT_GOAL := help
# a target may build kernels, and the next one rely on them
.NOTPARALLEL:

help:
	@sed -n 's/^#: \(.*\)/  \1/p' $(firstword $(MAKEFILE_LIST))

#: Try it
#:   demo        set up, build, boot, and show the patched kernel at work
#:   test        run the tests; T='io_uring.memcpy*' selects some, LOAD=6 computes beside
#:   test-all    these, and what takes hours: long random tests, all machines; T= as well
#:   run         CMD='ls -l' [MACHINE=um|qemu|qemu-debug|…]: run it inside
#:   shell       [MACHINE=…]: look around inside
#:
.PHONY: help demo test test-liburing test-ublk run shell
demo: deps-test tree
	@$(PYTHON) lab/demo.py

test: deps-test tree
	@$(PYTHON) lab/test.py $(if $(LOAD),--load $(LOAD)) '$(T)'

test-all: deps-test tree
	@$(PYTHON) lab/test.py --all '$(T)'

run: deps-test tree
	@$(PYTHON) lab/machine.py build $(MACHINE)
	@$(PYTHON) lab/machine.py run $(MACHINE) -- '$(CMD)'

shell: deps-test tree
	@$(PYTHON) lab/machine.py build $(MACHINE)
	@$(PYTHON) lab/machine.py shell $(MACHINE)

#: Work on it
#:   doctor      what this machine has, and what it lacks
#:   deps        install what is missing
#:   tree        base and series as commits: build/linux, build/liburing, build/fio
#:   export      write these commits back to the repo
#:   drift       which of the edited files moved in the base at hand
#:   build       the kernel of MACHINE, and what runs inside
#:   check       the static gates
#:   test-liburing  liburing's own suite, unpatched against patched kernel
#:   test-ublk   that of the ublk driver, and with a server that uses fused commands
#:   bench       measure, unpatched against patched kernel
#:   stat        how much the series changes in which existing file
#:
.PHONY: doctor deps deps-test tree export drift build check bench stat
doctor:
	@lab/doctor

deps:
	@lab/deps all

deps-test:
	@lab/deps test

tree: deps-test
	@$(SERIES) linux tree
	@$(SERIES) liburing tree
	@$(SERIES) fio tree

export:
	@$(SERIES) linux export
	@$(SERIES) liburing export
	@$(SERIES) fio export

drift:
	@$(SERIES) linux drift
	@$(SERIES) liburing drift
	@$(SERIES) fio drift

build: tree
	@$(PYTHON) lab/machine.py build $(MACHINE)
	@$(PYTHON) lab/machine.py user

check: tree
	@lab/deps check
	@$(PYTHON) lab/check.py

test-liburing: tree
	@$(PYTHON) lab/compare.py liburing

test-ublk: tree
	@$(PYTHON) lab/compare.py ublk

bench: tree
	@lab/deps bench
	@$(PYTHON) lab/bench.py

stat: tree
	@$(SERIES) linux stat
	@$(SERIES) liburing stat
	@$(SERIES) fio stat

#: Take it elsewhere
#:   series      mails for git am on a pristine 7.3, in build/series; SIGNOFF=1
#:   bisectable  build every commit, with all features on and with each one off
#:   deb         kernel and liburing packages for real hardware, in build/deb
#:   clean       remove build/, unless work in there is not exported
.PHONY: series bisectable deb clean
series: tree
	@$(SERIES) linux mbox
	@$(SERIES) liburing mbox
	@$(SERIES) fio mbox

bisectable: tree
	@$(SERIES) linux bisectable

deb: tree
	@lab/deps deb
	@lab/deb

clean:
	@$(SERIES) linux clean
	@$(SERIES) liburing clean
	@$(SERIES) fio clean
	rm -rf build
