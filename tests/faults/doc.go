// Package faults breaks a stack of real processes while it works. It checks that nobody gets what
// no policy allowed, that everything recovers by itself, and that the audit log declares what it
// lost.
package faults
