// Package tests holds what crosses packages: the invariants of the repository (which package may
// import which, where documentation is, that documents name real things), and the end-to-end tests
// and benchmarks.
package tests
