#!/usr/bin/env bash
# Runs the benchmarks that compare with a baseline in the same run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
use_tools

step "benchmarks"
# Envoy and the control plane have a lot to say meanwhile; it is in the log.
grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n 1 dirname | sort -u |
	xargs go test -run '^$' -bench . -benchtime 10x -count 1 -timeout 30m 2>&1 |
	tee "$cache/log/bench.log" | grep -E '^(pkg:|Benchmark|ok|FAIL|panic|--- FAIL|\|)' ||
	fail "a benchmark did not work" "all of its output: .cache/log/bench.log"
