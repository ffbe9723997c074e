// Package dataplane holds tests of what agents see of real Envoys: each file is about one feature,
// under the name that users have for it.
package dataplane
