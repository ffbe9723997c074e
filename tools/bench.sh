#!/usr/bin/env bash
# Runs the benchmarks that compare with a baseline in the same run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
use_tools

step "benchmarks"
grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n 1 dirname | sort -u |
	xargs go test -run '^$' -bench . -benchtime 10x -count 1 -timeout 15m
