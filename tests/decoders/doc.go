// Package decoders has what real servers make of a request's target: their answers as
// data, models of them in Go, and the properties that a rule has to keep for all. No
// program imports it.
package decoders
