#!/usr/bin/env bash
# Brings the local stack up and shows it at work.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
use_tools

step "the stack 'local'"
bin/postern demo --prepare
go run . up local
bin/postern demo
