#!/usr/bin/env bash
# Runs the benchmarks that compare with a baseline in the same run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
use_tools

step "benchmarks"
go test -run '^$' -bench . -benchtime 1x -count 1 -timeout 15m ./tests/...
