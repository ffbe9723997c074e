// Package kms signs with a private key that stays in a cloud's key management
// service: nobody, this program included, ever has its bytes. Package aws is the
// driver; a program that imports it has it.
package kms

import (
	"crypto"
	"fmt"
	"strings"
)

const scheme = "awskms://"

// Is reports whether the place is one for [Open], not one of PEM.
func Is(place string) bool { return strings.HasPrefix(place, scheme) }

var driver func(place string) (crypto.Signer, error)

// Register makes open the driver of AWS KMS. Call it in init.
func Register(open func(place string) (crypto.Signer, error)) { driver = open }

// Open finds the key of awskms://KEY?region=REGION, where KEY is an ID,
// alias/NAME or, after a third slash, an ARN, and makes sure that it signs. It
// takes 12 s at most. Who asks is whom AWS's own tools would be, by the
// environment. Errors say what to do.
func Open(place string) (crypto.Signer, error) {
	if driver == nil {
		return nil, fmt.Errorf("the key %s: this program was built without the drivers of clouds: use bin/posternd-cloud, which `make cloud` builds", place)
	}
	return driver(place)
}
