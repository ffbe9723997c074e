#!/bin/bash -p
# Runs the benchmarks that compare with a baseline in the same run.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

step "benchmarks"
# measure TURNS FOLDER...: run what is in the folders.
measure() {
	local turns=$1
	shift
	# Envoy and the control plane have a lot to say meanwhile; it is in the log.
	go test -run '^$' -bench . -benchtime "$turns" -count 1 -timeout 30m "$@" 2>&1 |
		tee -a "$cache/log/bench.log" | grep -E '^(pkg:|Benchmark|ok|FAIL|panic|--- FAIL|\|)' ||
		fail "a benchmark did not work" "all of its output: .cache/log/bench.log"
}
: >"$cache/log/bench.log"
mapfile -t folders < <(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -n 1 dirname | sort -u | grep -vx ./tests/scale)
measure 10x "${folders[@]}"
measure 100x ./tests/scale # of ten turns the 99th percentile would be the greatest
