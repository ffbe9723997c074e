#!/bin/bash -p
# Brings the local stack up and shows it at work.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

step "the stack 'local'"
bin/postern demo --prepare
# As committed, the stack file was looked at in the repository. What was changed since then is asked about.
yes=()
if git diff --quiet HEAD -- stacks/local.yaml 2>/dev/null; then yes=(--yes); fi
go run . up local "${yes[@]}"
bin/postern demo
