// Package dataplane holds tests of what real Envoys do with what package envoy builds.
package dataplane
