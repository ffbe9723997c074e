#!/bin/bash -p
# Runs the linter and the tests at the same time. Its output ends with the lines of `go test`; all of
# them are the project's, and none is left out.
. "${BASH_SOURCE[0]%/*}/lib.sh"
use_tools

# start NAME COMMAND...: begins the command, with its output in .cache/log/NAME.log, in a process group of its own.
# What ends this script ends the group.
declare -A group
start() {
	set -m
	"${@:2}" >"$cache/log/$1.log" 2>&1 </dev/null &
	set +m
	group[$1]=$!
}
trap 'for g in "${group[@]}"; do kill -INT -- "-$g" 2>/dev/null || true; done' EXIT

# ended NAME: waits for what was begun, shows its output, and has its status.
ended() {
	local status=0
	wait "${group[$1]}" || status=$?
	unset "group[$1]"
	cat "$cache/log/$1.log"
	return "$status"
}

# Most tests wait most of the time: whatever can runs at the same time. The linter only computes: what
# waits with a bound goes first.
start lint nice -n 10 env STEP=5/6 tools/lint.sh

STEP=6/6 step "tests"
# -race where it is affordable, and finds something. Not where Pulumi is: its packages take minutes
# more to compile with it. Not in single, which begin no goroutine (tests/house holds them to that),
# nor in clients, whose tests drive programs that are built without it: what runs in the process of
# such a test runs in tests/dataplane and tests/faults, too.
single=' envoy policies/cel policies/proof policies/reach/aws '
clients=' tests/attack tests/clients tests/escape '
# The packages that take longest are begun first, so that no processor waits for the last of them.
slow=' sandbox tests tests/attack tests/clients tests/cloud tests/dataplane tests/escape tests/faults '
race=() plain=()
while IFS='|' read -r name deps; do
	case $name in
	*.test)
		name=${name%.test}
		which=race
		case " $deps " in *" github.com/pulumi/"*) which=plain ;; esac
		case "$single$clients" in *" ${name#*/*/*/} "*) which=plain ;; esac
		declare -n list=$which
		case $slow in
		*" ${name#*/*/*/} "*) list=("$name" "${list[@]}") ;;
		*) list+=("$name") ;;
		esac
		;;
	esac
done < <(go list -test -f '{{.ImportPath}}|{{join .Deps " "}}' ./...)

# Tests read files and start programs that Go's test cache knows nothing of: never use it. The linter
# has vetted everything. On a busy machine a package took 18 minutes.
tested() { go test -trimpath -vet=off -count=1 -timeout 1h "$@"; }
# With the settings of tools/build.sh: what that has compiled is not compiled again.
run() { CGO_ENABLED=0 tested "$@"; }

# The packages without tests; they only have to build.
say "${#race[@]} packages with -race, ${#plain[@]} without"

# What tests/clients runs: 900 MB, once in a checkout. That package waits for what is begun here.
start clients run -v -run '^TestInstall$' ./tests/clients

# Compile first, where progress can be shown; the runs below then only link and run. `go build` would link the programs
# too, which nobody runs with -race. With -trimpath what one checkout has compiled serves all.
long test-race-build.log "packages and their tests compiled with -race" \
	go list -race -trimpath -test -export -v -f '' "${race[@]}"

# At the end of a program the race detector sleeps for a second, for races of what still runs then. Hundreds of programs
# of the tests' own end; no test looks at what runs after it.
export GORACE="atexit_sleep_ms=0${GORACE:+ $GORACE}"

trap 'exit 130' INT TERM
status=0
# One of these at a time: with four packages at once, an Envoy of the others waits too long for a processor.
start tests-without-race run -p 1 "${plain[@]}"
tested -race "${race[@]}" || status=1
ended clients || status=1
ended tests-without-race || status=1
ended lint || status=1
exit $status
