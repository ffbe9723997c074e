// Package attack is the attack suite: what broke comparable systems, tried on
// this data plane with a real Envoy. docs/attack.md describes how it works.
package attack
