// Package remote has the shape of a stack on AWS as processes on one machine:
// what its tasks are started with, replicas and nodes that join over TCP, and
// moto for S3, Secrets Manager and KMS.
package remote
