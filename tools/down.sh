#!/bin/bash -p
# Takes the local stack down.
. "${BASH_SOURCE[0]%/*}/lib.sh"
# Whoever takes down needs no Envoy, and may have no Pulumi that we know of.
if [ -s "$cache/pulumi.path" ]; then
	PULUMI=$(cat "$cache/pulumi.path")
	export PULUMI
fi

step "the stack 'local'"
go run . destroy local
