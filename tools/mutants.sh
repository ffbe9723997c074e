#!/bin/bash -p
# Changes code, one small change at a time, and prints the changes that no test of its
# package sees. PLACES are packages or files, all of tools/mutants.txt by default. SAMPLE is
# how many changes of each place are tried, 0 for all; the same SEED tries the same ones.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

step "mutants"
# shellcheck disable=SC2086 # words are several places
go run ./tests/mutants -sample "${SAMPLE:-30}" ${SEED:+-seed "$SEED"} ${PLACES:-} ||
	fail "see above for what lived, or for what is wrong" "the same run again: make mutants${PLACES:+ PLACES=\"$PLACES\"} SAMPLE=${SAMPLE:-30} SEED=the seed above"
