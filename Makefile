# Everything is also a plain command; the scripts behind the targets are in tools/.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install uninstall up down test build cloud deps lint bench attack escape chaos fuzz mutants clean
SHELL := /bin/bash
# Without what BASH_ENV names; see tools/path.sh.
.SHELLFLAGS := -pc

help: ## show this
	@command -p awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: deps build ## install below PREFIX (/usr/local for root, ~/.local otherwise); then: postern init
	@STEP=1/1 tools/install.sh

uninstall: ## remove what `make install` has installed below PREFIX
	@STEP=1/1 tools/install.sh remove

up: ## install what is missing, build, bring the stack `local` up, show it working
	@STEP=1/5 tools/packages.sh
	@STEP=2/5 tools/envoy.sh
	@STEP=3/5 tools/pulumi.sh
	@STEP=4/5 tools/build.sh
	@STEP=5/5 tools/up.sh

test: ## check everything: build, lint, tests with the real Envoy and the real Pulumi engine
	@STEP=1/6 tools/packages.sh test
	@STEP=2/6 tools/envoy.sh
	@STEP=3/6 tools/pulumi.sh
	@STEP=4/6 tools/build.sh
	@tools/test.sh

cloud: ## build now what stacks in a cloud, and secrets there, need; otherwise it is built when first needed
	@STEP=1/1 tools/build.sh cloud

build: ## build bin/postern, bin/posternd, bin/postern-sandbox, bin/postern-stack, bin/libguard.so, bin/pulumi-resource-postern
	@STEP=1/1 tools/build.sh

deps: ## get what is needed besides Go: a C compiler, bubblewrap, Envoy, the Pulumi CLI
	@STEP=1/3 tools/packages.sh
	@STEP=2/3 tools/envoy.sh
	@STEP=3/3 tools/pulumi.sh

lint: ## golangci-lint, with all that go vet looks at
	@STEP=1/1 tools/lint.sh

bench: deps build ## measure: allow to convergence, sandbox start, the request path, each against a baseline
	@STEP=1/2 tools/packages.sh bench
	@STEP=2/2 tools/bench.sh

attack: deps ## try on this data plane what broke comparable systems, and print the verdicts
	@STEP=1/1 tools/attack.sh

escape: deps ## try to get out of each runtime, from inside, and print what was refused
	@STEP=1/2 tools/packages.sh test
	@STEP=2/2 tools/escape.sh

chaos: deps ## break a stack in every known way, and print what it says and does
	@STEP=1/1 tools/chaos.sh

fuzz: ## run every fuzz test for 10 s, or FUZZTIME
	@STEP=1/1 tools/fuzz.sh

mutants: deps ## change the code that decides, a little at a time, and print the changes that no test sees
	@STEP=1/1 tools/mutants.sh

down: ## take the stack `local` down again; the audit log stays
	@tools/down.sh

clean: ## remove bin/ and .cache/ (after `make down`)
	command -p rm -rf bin .cache
