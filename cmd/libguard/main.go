// Libguard is package guard as a filter of Envoy: a dynamic module, which Envoy
// loads into its process.
package main

// #cgo LDFLAGS: -Wl,--unresolved-symbols=ignore-all
// #include "abi.h"
import "C"

func main() {}

//export refuse
func refuse(s C.stream, kind C.int) C.int { return C.stop }

//export checkHeaders
func checkHeaders(s C.stream, kind C.int, hs *C.header, n C.size_t, rule C.buffer) C.int {
	return C.go_on
}

//export putCredential
func putCredential(s C.stream, hs *C.header, n C.size_t, rule C.buffer) C.int { return C.go_on }
