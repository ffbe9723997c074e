// Libguard is package guard as filters of Envoy: a dynamic module, which Envoy loads
// into its process. Whatever fails here lets nothing through.
package main

// main is never called: the package is built as a library.
func main() {}
