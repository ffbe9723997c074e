#!/bin/bash -p
# Tries, from inside each runtime, to get out of it (tests/escape), and prints the table.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

step "escape suite"
status=0
go test -count=1 -timeout 10m -v ./tests/escape >"$cache/log/escape.log" 2>&1 || status=$?
grep ' | ' "$cache/log/escape.log" || true
[ "$status" -eq 0 ] || fail "an attempt succeeded, or the suite did not run" "all of its output: .cache/log/escape.log"
