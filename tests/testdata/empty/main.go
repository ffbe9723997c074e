// Command empty does nothing: it is what the start of our programs is measured against.
package main

func main() {}
