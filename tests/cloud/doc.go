// Package cloud tests what operators do with a stack on AWS after an `up`, against moto: a stand-in
// for AWS on loopback. Next to each test is what moto cannot do.
package cloud
