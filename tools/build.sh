#!/usr/bin/env bash
# Builds everything: all packages, then the programs into bin/. Go knows what
# is up to date; a second run takes a second or two.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "Postern itself"
[ -x bin/posternd ] || say "the first time this compiles about 1,150 packages: ten minutes and more on two processors"
# Without the programs: Go would link them every time and throw them away.
libraries() { go list -f '{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}' ./... | xargs go build -v; }
long build.log "packages compiled" libraries

# The daemon runs in images with nothing else in them, and its digest is an input of the
# stack; postern-sandbox runs in sandboxes: static, and the same bytes wherever it is built.
static() { CGO_ENABLED=0 go build -v -trimpath -o bin/ ./cmd/postern ./cmd/posternd ./cmd/postern-sandbox; }
long build-static.log "packages compiled for bin/postern, bin/posternd and bin/postern-sandbox" static

# What every node's Envoy loads, from beside posternd. Its digest is an input of the stack, too:
# without the commit in it, for another one is no reason to restart nodes. The header beside it is
# for programs in C.
module() { CGO_ENABLED=1 go build -v -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-s -o bin/libguard.so ./cmd/libguard && rm -f bin/libguard.h; }
long build-module.log "packages compiled for bin/libguard.so" module

# Not -trimpath: that would compile Pulumi's SDK a second time, and nothing depends on these bytes.
provider() { go build -v -o bin/ ./cmd/pulumi-resource-postern; }
long build-provider.log "packages compiled for bin/pulumi-resource-postern" provider
say "bin/postern, bin/posternd, bin/postern-sandbox, bin/libguard.so, bin/pulumi-resource-postern"
