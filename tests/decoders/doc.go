// Package decoders holds how real servers read a request's target: their answers as data
// (testdata), models of them in Go, which tests compare with the data, and the properties that
// every rule must keep for all of them. No program of ours imports it.
//
// To ask a server again, or another version of it, see the program record. To add a server, write
// its program into servers, a line into record, and a model into [Asked].
package decoders
