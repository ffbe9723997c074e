#!/bin/bash -p
# Runs the attack suite (docs/attack.md) and prints its table.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

step "attack suite"
table=$cache/log/attack.txt
rm -f "$table" "$table.host"
status=0
POSTERN_ATTACK_TABLE=$table go test -count=1 -timeout 5m ./tests/attack >"$cache/log/attack.log" 2>&1 || status=$?
[ ! -f "$table" ] || cat "$table"
[ ! -f "$table.host" ] || { echo && cat "$table.host"; }
[ "$status" -eq 0 ] || fail "an attack succeeded, or the suite did not run" "all of its output: .cache/log/attack.log"
