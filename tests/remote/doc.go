// Package remote runs a stack in the shape of AWS as processes on one machine: the commands of its
// tasks, replicas and nodes that join over TCP, and moto for S3, Secrets Manager and KMS.
package remote
