# shellcheck shell=bash
# Sourced by the other scripts of this folder: paths, words on the screen, and
# long commands that say how far they are.

set -euo pipefail

. "${BASH_SOURCE[0]%/*}/path.sh"
root=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
cache=$root/.cache
mkdir -p "$cache/bin" "$cache/log" "$root/bin"
cd "$root"

# The state of the version control system must not change what is built.
export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"
# A go.work of a folder above may name what an agent works on.
export GOWORK=off

bold='' dim='' red='' reset=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' reset=$'\e[0m'
fi

# step TITLE: the heading of one step. $STEP is its place, such as 2/5.
step() { printf '%s[%s]%s %s\n' "$bold" "${STEP:-1/1}" "$reset" "$*"; }

# say TEXT: a line below the heading.
say() { printf '      %s\n' "$*"; }

# fail LINE...: say what is wrong and what to do, and stop.
fail() {
	printf '%serror:%s %s\n' "$red" "$reset" "$1" >&2
	shift
	[ $# -eq 0 ] || printf '       %s\n' "$@" >&2
	exit 1
}

# lock NAME: let one process at a time do this; the lock ends with the script.
lock() {
	command -v flock >/dev/null || return 0
	exec 9>"$cache/$1.lock"
	flock -n 9 || {
		say "waiting for another make that does the same ..."
		flock 9
	}
}

# count FILE UNIT: how far a command is, by the lines that it has written to FILE;
# UNIT says of what. Go downloads modules before it compiles the first package.
count() {
	local lines modules
	lines=$(grep -cv '^go: ' "$1" || true)
	modules=$(grep -c '^go: downloading' "$1" || true)
	if [ "$lines" -eq 0 ] && [ "$modules" -gt 0 ]; then
		echo "$modules modules downloaded"
	else
		echo "$lines $2"
	fi
}

# long LOG UNIT COMMAND...: run the command with its output in .cache/log/LOG,
# and say now and then how far it is (see count). If it fails, show the end of its
# output and stop.
long() {
	local log=$cache/log/$1 unit=$2 start=$SECONDS last=-1 every=15 pid n status=0
	shift 2
	[ -t 1 ] && every=1
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# A shell without job control lets its background commands ignore ^C.
	trap 'kill "$pid" 2>/dev/null || true; exit 130' INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		n=$((SECONDS - start))
		if [ $((n / every)) -ne "$last" ]; then
			last=$((n / every))
			if [ -t 1 ]; then
				printf '\r      %s%s, %d s%s\e[K' "$dim" "$(count "$log" "$unit")" "$n" "$reset"
			elif [ "$n" -gt 0 ]; then
				say "$(count "$log" "$unit"), $n s"
			fi
		fi
		sleep 0.3
	done
	wait "$pid" || status=$?
	trap - INT TERM
	[ -t 1 ] && printf '\r\e[K'
	if [ "$status" -ne 0 ]; then
		# Of a Go build, the lines that only name packages are no news.
		grep -Ev '^(go: downloading .*|[a-z0-9.~_-]+(/[A-Za-z0-9.~_+-]+)*)$' "$log" | tail -40 >&2 || true
		fail "this did not work: $*" "all of its output: ${log#"$root"/}"
	fi
	n=$((SECONDS - start))
	[ "$n" -lt 3 ] || say "$(count "$log" "$unit"), done in $n s"
}

# use_tools: let what is started from here find the Envoy and the Pulumi CLI
# that envoy.sh and pulumi.sh settled on.
use_tools() {
	local name
	for name in envoy pulumi; do
		[ -s "$cache/$name.path" ] || fail "no $name yet" "run: make deps"
	done
	ENVOY=$(cat "$cache/envoy.path")
	PULUMI=$(cat "$cache/pulumi.path")
	export ENVOY PULUMI
}
