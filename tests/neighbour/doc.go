// Package neighbour measures what one agent's worst does to another agent of the same
// node: the benchmark behind "A hostile neighbour" in docs/performance.md.
package neighbour
