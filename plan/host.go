package plan

import (
	"errors"
	"fmt"
	"strings"
)

// The longest host name and label of DNS.
const (
	maxHost  = 253
	maxLabel = 63
)

// CanonicalHost returns the one spelling of a host name that plans contain: lower case, without a
// trailing dot. It accepts only DNS names of letters, digits and hyphens. It refuses wildcards,
// ports, Unicode, and IP literals in every spelling that some client accepts (short, decimal,
// octal, hexadecimal, IPv6, brackets). Internationalised names must be in their xn-- form.
func CanonicalHost(host string) (string, error) {
	if host == "" {
		return "", errors.New("host is empty")
	}
	h := strings.TrimSuffix(lowerASCII(host), ".")
	if len(h) > maxHost {
		return "", fmt.Errorf("host has %d characters, a DNS name has at most %d", len(h), maxHost)
	}
	if address, _, _ := strings.Cut(h, "%"); strings.ContainsAny(h, "[]:") && strings.Trim(address, "0123456789abcdef:.[]") == "" && strings.Count(h, ":") != 1 {
		return "", fmt.Errorf("host %q is an IP address, not a name", host)
	}
	labels := strings.Split(h, ".")
	for _, label := range labels {
		if err := checkLabel(label); err != nil {
			return "", fmt.Errorf("host %q: %w", host, err)
		}
	}
	// Every client that knows numeric hosts decides by the last label, and no
	// top-level domain is a number.
	if isNumber(labels[len(labels)-1]) {
		return "", fmt.Errorf("host %q is an IP address, not a name", host)
	}
	return h, nil
}

// CanonicalPattern is [CanonicalHost] for the hosts of rules: a host, or "*." before a host of at
// least two labels, for every name below it. It does not check whether strangers can register names
// below the host.
func CanonicalPattern(host string) (string, error) {
	rest, wildcard := strings.CutPrefix(host, "*.")
	if !wildcard {
		return CanonicalHost(host)
	}
	h, err := CanonicalHost(rest)
	if err != nil {
		return "", err
	}
	if !strings.Contains(h, ".") {
		return "", fmt.Errorf("host %q is every name of a top-level domain", host)
	}
	return "*." + h, nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("a label is empty")
	case len(label) > maxLabel:
		return fmt.Errorf("a label has %d characters, the most is %d", len(label), maxLabel)
	case label[0] == '-' || label[len(label)-1] == '-':
		return fmt.Errorf("label %q begins or ends with a hyphen", label)
	}
	for _, c := range []byte(label) {
		if !isLower(c) && !isDigit(c) && c != '-' {
			return fmt.Errorf("label %q has a character that is not a letter, digit or hyphen", label)
		}
	}
	return nil
}

// isNumber is the "ends in a number" test of the URL standard, for a lower-case label.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// lowerASCII is strings.ToLower without Unicode, in which characters of other
// scripts (such as the Kelvin sign) turn into ASCII letters.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
