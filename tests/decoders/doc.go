// Package decoders has what real servers make of a request's target: their answers as
// data (testdata), models of them in Go that tests hold to the data, and the properties
// that every rule has to keep for all of them. No program of ours imports it.
//
// To ask a server again, or another version of it, see the program record. To add one,
// write its program into servers, a line into record, and a model into [Asked].
package decoders
