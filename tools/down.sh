#!/usr/bin/env bash
# Takes the local stack down.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
use_tools

step "the stack 'local'"
go run . destroy local
