#!/usr/bin/env bash
# Runs the tests. Its output ends with the lines of `go test`; all of them are
# the project's, and none is left out.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
use_tools

step "tests"
# -race where it is affordable: Pulumi's packages take minutes more to compile with it.
race=() plain=()
while IFS='|' read -r name deps; do
	case $name in
	*.test)
		case " $deps " in
		*" github.com/pulumi/"*) plain+=("${name%.test}") ;;
		*) race+=("${name%.test}") ;;
		esac
		;;
	esac
done < <(go list -test -f '{{.ImportPath}}|{{join .Deps " "}}' ./...)

# The packages without tests; they only have to build.
say "${#race[@]} packages with -race, ${#plain[@]} without (they use Pulumi)"

# Compile first, where progress can be shown; the runs below then only run.
if [ ${#race[@]} -gt 0 ]; then
	long test-race-build.log "packages compiled for the tests with -race" go build -v -race "${race[@]}"
fi

# What tests/clients runs: 900 MB, once.
long clients.log "lines" go test -race -count=1 -v -run '^TestInstall$' ./tests/clients

# Tests read files and start programs that Go's test cache knows nothing of: never use it.
status=0
if [ ${#plain[@]} -gt 0 ]; then
	go test -count=1 -timeout 15m "${plain[@]}" || status=1
fi
if [ ${#race[@]} -gt 0 ]; then
	go test -race -count=1 -timeout 15m "${race[@]}" || status=1
fi
exit $status
