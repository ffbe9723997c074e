// Package faults breaks a stack of real processes in the middle of what it
// does, and checks that nobody gets what no policy gave, that everything comes
// back by itself, and that the audit log says what it lost.
package faults
