# The image of proxies and control plane: posternd (static), Envoy
# and libguard.so, which Envoy loads; nothing else.
#
#     tools/envoy.sh && cp "$(cat .cache/envoy.path)" .cache/image-envoy
#     docker build -f images/posternd.Dockerfile -t postern .
#
# Envoy comes out of the build context: tools/envoy.sh has checked its SHA-256,
# and ENVOY_SHA256 is checked once more here. It needs glibc, so the base has one.

FROM golang:1.26@sha256:9edf71320ef8a791c4c33ec79f90496d641f306a91fb112d3d060d5c1cee4e20 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -tags cloud -o /out/posternd ./cmd/posternd
# The last stage's glibc is 2.36 (Debian 12), and the one here is newer: what is linked with
# it loads there only if it needs nothing newer. Today the newest thing needed is of 2.34.
RUN CGO_ENABLED=1 go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags=-s -o /out/libguard.so ./cmd/libguard && rm /out/libguard.h && \
    needs=$(objdump -T /out/libguard.so | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -n 1) && \
    if [ -z "$needs" ] || ! printf '%s\n' "$needs" GLIBC_2.36 | sort -VC; then \
    echo "libguard.so needs ${needs:-nobody knows what}, and the last stage has GLIBC_2.36: build it in a stage with Debian 12" >&2; exit 1; fi
# linux/amd64; for linux/arm64 give the one that tools/envoy.sh has for aarch64.
ARG ENVOY_SHA256=8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80
RUN echo "$ENVOY_SHA256  .cache/image-envoy" | sha256sum --check --strict && install -m 0755 .cache/image-envoy /out/envoy
RUN install -d -m 0700 /out/state

FROM gcr.io/distroless/base-debian12:nonroot@sha256:7f0c72cd138b442ae0deeb69c08b1acf5525439ba251a49ad93c320a061567e5
COPY --from=build /out/posternd /out/libguard.so /out/envoy /usr/local/bin/
COPY --from=build --chown=65532:65532 /out/state /var/lib/postern
# The root is read-only. A volume of the platform's has the owner and mode of what it
# covers only if the image declares it; otherwise it is root's, and nothing starts.
VOLUME ["/var/lib/postern", "/tmp"]
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/posternd"]
