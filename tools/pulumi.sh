#!/usr/bin/env bash
# Finds the Pulumi CLI: $PULUMI, or pulumi on PATH, or one built once from the
# module in tools/go.mod into .cache/bin. Writes its path to .cache/pulumi.path.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

own=$cache/bin/pulumi
module=github.com/pulumi/pulumi/pkg/v3
oldest=v3.200.0 # the same as in engine/cli.go
want=$(cd tools && go list -m -f '{{.Version}}' $module)

step "Pulumi CLI $want"

# usable FILE: whether it is a version 3 that is not older than that.
usable() {
	local have
	have=$(PULUMI_SKIP_UPDATE_CHECK=true "$1" version 2>/dev/null </dev/null) || return 1
	case $have in v3.*) ;; *) return 1 ;; esac
	[ "$(printf '%s\n' "$oldest" "$have" | sort -V | head -1)" = "$oldest" ]
}

settle() {
	printf '%s\n' "$1" >"$cache/pulumi.path.$$"
	mv "$cache/pulumi.path.$$" "$cache/pulumi.path"
	say "$1"
	exit 0
}

for candidate in "${PULUMI:-}" "$(command -v pulumi || true)"; do
	[ -n "$candidate" ] || continue
	if usable "$candidate"; then settle "$(realpath -s "$candidate")"; fi
	say "$candidate is not version 3 from $oldest on: using one of our own"
done

lock pulumi
if [ ! -x "$own" ] || [ "$(PULUMI_SKIP_UPDATE_CHECK=true "$own" version 2>/dev/null)" != "$want" ]; then
	say "building it (once, 4-9 minutes)"
	# Without the -X the Automation API refuses the CLI. The same flags as for our own
	# packages and, in tools/go.mod, the same versions: what both need is compiled once.
	build() {
		cd tools && go build -v \
			-ldflags "-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$want" \
			-o "$own.$$" $module/cmd/pulumi
	}
	long pulumi.log "packages of about 1600 compiled" build
	mv "$own.$$" "$own"
	usable "$own" || fail "the Pulumi CLI that was built does not run" "remove $own and run make again"
fi
settle "$own"
