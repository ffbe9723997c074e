// Package peers measures Postern's data plane next to the proxies that people
// would use instead: mitmproxy and Squid's ssl-bump for what is intercepted,
// nginx for gateways. All do the same work on the same upstream: CONNECT, TLS
// terminated with one and the same certificate authority, an allowlist of host,
// method and path, a header with a key injected, TLS to the upstream verified,
// one line of JSON logged.
//
// It holds benchmarks only (`make bench`), which print ratios within one run and
// a table; docs/performance.md says how to read them.
package peers
