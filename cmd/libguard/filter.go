package main

// #cgo LDFLAGS: -Wl,--unresolved-symbols=ignore-all
// #cgo noescape envoy_dynamic_module_callback_http_get_header
// #cgo noescape envoy_dynamic_module_callback_http_set_header
// #cgo nocallback envoy_dynamic_module_callback_http_get_header
// #cgo nocallback envoy_dynamic_module_callback_http_set_header
// #cgo nocallback envoy_dynamic_module_callback_http_get_headers_size
// #cgo nocallback envoy_dynamic_module_callback_http_get_headers
// #include "abi.h"
import "C"

import (
	"errors"
	"strings"
	"unsafe"

	"github.com/postern/postern/guard"
)

// Two strings of Go are a header in C: nothing is copied.
var _ = [1]struct{}{}[unsafe.Sizeof(C.header{})-unsafe.Sizeof(guard.Header{})]

// names are those of all agents.
var names guard.Names

//export checkHeaders
func checkHeaders(
	s C.stream, kind C.int, hs *C.header, n C.size_t, rule C.buffer, agent C.uintptr_t, body C.bool,
) (status C.int) {
	defer func() {
		if recover() != nil {
			status = refuse(s, kind)
		}
	}()
	r, err := guard.ParseRule(text(rule))
	if err != nil {
		return refuse(s, kind)
	}
	all := unsafe.Slice((*guard.Header)(unsafe.Pointer(hs)), n)
	var changes [8]guard.Change
	var values [2]string
	switch cs := changes[:0]; kind {
	case C.request_headers:
		if r.Ended() {
			return answer(s, 403, guard.Ended)
		}
		if r.Below && !names.Take(uintptr(agent), authority(all)) {
			return answer(s, 429, guard.MadeUp)
		}
		if cs, err = guard.Request(cs, all, r); err == nil && bool(body) {
			err = guard.Body(all)
		}
		if err != nil {
			return answer(s, 403, guard.Ambiguous)
		}
		apply(s, kind, cs)
	case C.response_headers:
		apply(s, kind, guard.Response(cs, all, r, injected(values[:0], s, r)))
	case C.request_trailers:
		apply(s, kind, guard.Trailers(cs, all, r, nil))
	case C.response_trailers:
		apply(s, kind, guard.Trailers(cs, all, r, injected(values[:0], s, r)))
	}
	return C.go_on
}

func authority(hs []guard.Header) string {
	for _, h := range hs {
		if h.Name == ":authority" {
			return h.Value
		}
	}
	return ""
}

//export putCredential
func putCredential(s C.stream, hs *C.header, n C.size_t, rule C.buffer) (status C.int) {
	defer func() {
		if recover() != nil {
			status = refuse(s, C.request_headers)
		}
	}()
	r, err := guard.ParseRule(text(rule))
	if err != nil {
		return refuse(s, C.request_headers)
	}
	changes, err := guard.Put(nil, unsafe.Slice((*guard.Header)(unsafe.Pointer(hs)), n), r)
	switch {
	case errors.Is(err, guard.ErrSignedBody):
		return answer(s, 422, guard.SignedBody)
	case err != nil:
		return refuse(s, C.request_headers)
	}
	apply(s, C.request_headers, changes)
	return C.go_on
}

// refuse ends a request. Of a response it leaves no header, of trailers none: rather
// that than one too many.
//
//export refuse
func refuse(s C.stream, kind C.int) (status C.int) {
	defer func() {
		if recover() != nil {
			status = C.stop
		}
	}()
	if kind == C.request_headers {
		return answer(s, 500, guard.Failed)
	}
	n := C.envoy_dynamic_module_callback_http_get_headers_size(s, kind)
	if n == 0 {
		return C.go_on
	}
	hs := make([]guard.Header, n)
	if !C.envoy_dynamic_module_callback_http_get_headers(s, kind, (*C.header)(unsafe.Pointer(&hs[0]))) {
		return C.stop
	}
	var names []guard.Change
	for _, h := range hs {
		if !strings.HasPrefix(h.Name, ":") {
			names = append(names, guard.Change{Name: strings.Clone(h.Name)})
		}
	}
	apply(s, kind, names)
	return C.go_on
}

// answer ends a request with a status; package envoy makes the body (localReplies).
func answer(s C.stream, status C.uint32_t, details string) C.int {
	C.envoy_dynamic_module_callback_http_send_response(s, status, nil, 0, C.buffer{}, memory(details))
	return C.stop
}

func apply(s C.stream, kind C.int, changes []guard.Change) {
	for _, c := range changes {
		if !C.envoy_dynamic_module_callback_http_set_header(s, kind, memory(c.Name), memory(c.Value)) {
			panic("a header cannot be changed")
		}
	}
}

// injected appends the values of the headers that have the credential of a request.
func injected(values []string, s C.stream, r guard.Rule) []string {
	for _, name := range r.Injected() {
		for i, n := C.size_t(0), C.size_t(1); name != "" && i < n; i++ {
			var value C.buffer
			if !C.envoy_dynamic_module_callback_http_get_header(s, C.request_headers, memory(name), &value, i, &n) {
				break
			}
			values = append(values, text(value))
		}
	}
	return values
}

// text is memory of Envoy's, as long as that is valid.
func text(b C.buffer) string { return unsafe.String((*byte)(unsafe.Pointer(b.ptr)), b.length) }

// memory returns the memory of a string, for the time of one call.
func memory(s string) C.buffer {
	if s == "" {
		return C.buffer{}
	}
	return C.buffer{ptr: (*C.char)(unsafe.Pointer(unsafe.StringData(s))), length: C.size_t(len(s))}
}
