// Package scale measures what a change of the policy costs, from its
// publication until every node has acknowledged it: with two real Envoys, and
// with up to a thousand simulated xDS clients in a process of their own.
// docs/performance.md has the numbers.
package scale
