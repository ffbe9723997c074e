// Package scale measures the cost of a policy change, from its publication until every node has
// acknowledged it: with two real Envoys, and with up to a thousand simulated xDS clients in their
// own process. docs/performance.md has the numbers.
package scale
