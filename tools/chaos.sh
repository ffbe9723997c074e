#!/bin/bash -p
# Runs the situations of tools/chaos.txt and prints a table of what held. They are
# tests of `make test` too.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

step "situations that break a stack"
log=$cache/log/chaos.log
list=tools/chaos.txt
status=0
# One run for each package, of exactly the tests that are listed.
: >"$log"
for package in $(awk -F'|' '!/^#/ { print $2 }' "$list" | sort -u); do
	names=$(awk -F'|' -v p="$package" '!/^#/ && $2 == p { split($3, n, "/"); print n[1] }' "$list" | sort -u | paste -sd'|')
	go test -v -count=1 -timeout 10m -run "^($names)\$" "./$package" >>"$log" 2>&1 || status=1
done

printf '%-5s %-7s %s\n' ID VERDICT SITUATION
while IFS='|' read -r id package test what; do
	case $id in '#'* | '') continue ;; esac
	# A test that did not run proves nothing.
	verdict=NOT-RUN
	if grep -qF -- "--- PASS: $test (" "$log"; then verdict=held; fi
	if grep -qF -- "--- FAIL: $test (" "$log"; then verdict=FAILED; fi
	[ "$verdict" = held ] || status=1
	printf '%-5s %-7s %s\n' "$id" "$verdict" "$what"
done <"$list"
grep -hE '[0-9]+ answers(;|, as)' "$log" | sed -E 's/^.*_test.go:[0-9]+: /      /' || true
[ "$status" -eq 0 ] || fail "a situation was not held, or its test did not run" "all of its output: .cache/log/chaos.log"
