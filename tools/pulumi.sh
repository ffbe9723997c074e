#!/bin/bash -p
# Finds the Pulumi CLI: $PULUMI, or pulumi on PATH, or one of our own in .cache/bin, which is
# downloaded once, or built from the module in tools/go.mod where that fails. Writes its path to
# .cache/pulumi.path.
. "${BASH_SOURCE[0]%/*}/lib.sh"

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
	why=$(unsafe "$(realpath -s "$candidate")")
	[ -z "$why" ] || { say "$candidate is not used: $why" && continue; }
	if usable "$candidate"; then settle "$(realpath -s "$candidate")"; fi
	say "$candidate is not version 3 from $oldest on: using one of our own"
done

# The published archive and its SHA-256, by which Pulumi's own Homebrew formula knows it too.
published=v3.250.0
case $(uname -s)-$(uname -m) in
Linux-x86_64) platform=linux-x64 digest=8916fd36ccc96adbd45ca679194b685e3b767d94502ae05610878a6d9870b8f3 ;;
Linux-aarch64) platform=linux-arm64 digest=deb4bf0d05b4cbaf3adcf82ffa44039ad0ebf039e33338ead8136877a437b4e5 ;;
*) platform='' ;;
esac

# download: put the published CLI at $own. curl takes a proxy from the environment. It gives up after
# 10 s without a connection, or in which less than 100 kB/s came.
download() {
	local work got
	[ "$published" = "$want" ] && [ -n "$platform" ] || return 1
	say "downloading it (once)"
	work=$(mktemp -d "$cache/pulumi.XXXXXX")
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$work'" EXIT
	curl --fail --silent --show-error --location --proto '=https' --connect-timeout 10 --speed-time 10 --speed-limit 100000 --max-time 900 \
		--output "$work/archive" "https://github.com/pulumi/pulumi/releases/download/$want/pulumi-$want-$platform.tar.gz" 2>"$work/problem" || {
		say "that did not work: $(tail -n 1 "$work/problem")"
		return 1
	}
	got=$(sha256sum "$work/archive" | cut -d' ' -f1)
	[ "$got" = "$digest" ] || {
		say "warning: the archive has SHA-256 $got, not $digest: it is not used"
		return 1
	}
	tar -xzf "$work/archive" -C "$work" --no-same-owner pulumi/pulumi && mv "$work/pulumi/pulumi" "$own"
}

lock pulumi
current() { [ -x "$own" ] && [ "$(PULUMI_SKIP_UPDATE_CHECK=true "$own" version 2>/dev/null </dev/null)" = "$want" ]; }
if ! current && ! { download && current; }; then
	say "building it (once, 3-6 minutes on two processors)"
	# Without the -X the Automation API refuses the CLI. The same settings as for our own programs
	# and, in tools/go.mod, the same versions: what both need is compiled once.
	build() {
		cd tools && CGO_ENABLED=0 go build -v -trimpath \
			-ldflags "-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$want" \
			-o "$own.$$" $module/cmd/pulumi
	}
	long pulumi.log "packages of about 1600 compiled" build
	mv "$own.$$" "$own"
	usable "$own" || fail "the Pulumi CLI that was built does not run" "remove $own and run make again"
fi
settle "$own"
