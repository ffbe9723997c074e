// Package cloud has the tests of what operators do with a stack on AWS after an
// `up`, against moto: a stand-in for AWS on loopback. What moto cannot do is
// said next to each test.
package cloud
