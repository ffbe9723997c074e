#!/bin/bash -p
# golangci-lint over the whole repository, with all that go vet looks at. The linter is built once from the
# module in tools/lint/go.mod (of its own, so that its dependencies meet nobody else's).
. "${BASH_SOURCE[0]%/*}/lib.sh"

module=github.com/golangci/golangci-lint/v2
want=$(cd tools/lint && go list -m -f '{{.Version}}' $module)
# The version is in the name: another one is another file.
own=$cache/bin/golangci-lint-$want

step "lint: golangci-lint $want"
lock lint
if [ ! -x "$own" ]; then
	say "building golangci-lint (once, 2-4 minutes)"
	build() { cd tools/lint && go build -v -trimpath -ldflags "-s -w" -o "$own.$$" $module/cmd/golangci-lint; }
	long lint-build.log "packages of about 1200 compiled" build
	mv "$own.$$" "$own"
fi

start=$SECONDS status=0
# With the settings of tools/build.sh: what that has compiled is not compiled again. What the linter
# finds out of other modules it keeps for all checkouts, in its folder below the user's cache.
export CGO_ENABLED=0 GOFLAGS="$GOFLAGS -trimpath"
"$own" run --timeout 1h ./... || status=1
# The one package that needs cgo. With -trimpath Go keeps what cgo makes of it for all checkouts, with the path of the
# first, which may be gone.
CGO_ENABLED=1 GOFLAGS=${GOFLAGS/-trimpath/} "$own" run --timeout 1h ./cmd/libguard || status=1
# These have files with tags: which drivers of clouds are linked in.
go vet -tags cloud,aws ./cmd/... || status=1
[ $status -ne 0 ] || say "no findings, $((SECONDS - start)) s"
exit $status
