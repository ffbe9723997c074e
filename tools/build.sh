#!/bin/bash -p
# Builds the programs into bin/. Go knows what is up to date; a second run takes a second or two.
. "${BASH_SOURCE[0]%/*}/lib.sh"

step "Postern itself"
[ -x bin/postern-stack ] || say "the first time this compiles up to 1,000 packages: 2-3 minutes on two processors"

# All of our programs with the same settings, here and in package checkout: what one setting has compiled, Go does not
# take for another. Static, because posternd and postern-sandbox run in images and sandboxes with nothing else in them;
# the same bytes wherever they are built, because posternd's digest is an input of the stack.
build() { CGO_ENABLED=0 go build -v -trimpath -ldflags="-s -w" "$@"; }

# The commit, for `postern --version`, from files alone: git would run what the settings of a checkout name.
commit() {
	local head ref
	read -r head <.git/HEAD || return 0
	ref=${head#ref: }
	[ "$ref" = "$head" ] || read -r head <".git/$ref" ||
		head=$(command -p awk -v ref="$ref" '$2 == ref { print $1 }' .git/packed-refs)
	[[ $head =~ ^[0-9a-f]{40,64}$ ]] && printf '%s' "${head:0:12}"
}
release=$(commit 2>/dev/null) || release=
operators() { CGO_ENABLED=0 go build -v -trimpath -ldflags="-s -w -X main.release=0.0.0-${release:-unknown}" -o bin/ ./cmd/postern; }
programs() { operators && build -o bin/ ./cmd/posternd ./cmd/postern-sandbox ./cmd/postern-stack ./cmd/pulumi-resource-postern &&
	ln -sfn postern-stack bin/pulumi-analyzer-policy-postern; } # by which name the engine starts the policy pack
long build.log "packages compiled" programs

# The module that every node's Envoy loads from the folder of posternd. Its digest is an input of the stack, too:
# without the commit in it, for another one is not a reason to restart nodes. The header next to it is
# for programs in C.
module() { CGO_ENABLED=1 go build -v -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-s -o bin/libguard.so ./cmd/libguard && rm -f bin/libguard.h; }
long build-module.log "packages compiled for bin/libguard.so" module
say "bin/postern, bin/posternd, bin/postern-sandbox, bin/postern-stack, bin/libguard.so, bin/pulumi-resource-postern"

# The programs with drivers of clouds are built when they are first needed, or all of them by `make cloud`, and kept up
# to date from then on.
while read -r name command tags; do
	[ "${1:-}" = cloud ] || [ -x "bin/$name" ] || continue
	cloud() { build -tags "$tags" -o "bin/$name" "./cmd/$command"; }
	[ -x "bin/$name" ] || say "bin/$name: the first time this takes minutes"
	long "build-$name.log" "packages compiled for bin/$name" cloud
	say "bin/$name"
done <<-END
	postern-cloud postern cloud
	posternd-cloud posternd cloud
	postern-stack-aws postern-stack aws
END
