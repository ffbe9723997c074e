// Package peers measures Postern's data plane next to the proxies that people would use instead:
// mitmproxy and Squid's ssl-bump for interception, nginx for gateways. All do the same work on the
// same upstream: CONNECT, TLS terminated with the same certificate authority, an allow list of
// host, method and path, a header with a key, TLS to the upstream verified, one line of JSON
// logged.
//
// It holds benchmarks only (`make bench`), which print a table of ratios within one run.
// docs/performance.md says how to read them.
package peers
