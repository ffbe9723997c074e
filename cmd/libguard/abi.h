// The part of Envoy's interface for dynamic modules that is used here, of Envoy
// 1.40: ABI v0.2.0, source/extensions/dynamic_modules/abi/abi.h there. Names are
// short for what is called envoy_dynamic_module_type_... there.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Memory of Envoy's is valid until the hook ends, or until what it is of is changed.
typedef struct {
	const char *ptr;
	size_t length;
} buffer;

typedef struct {
	buffer name, value;
} header;

// A request and its response, as Envoy knows them.
typedef void *stream;

enum { request_headers, request_trailers, response_headers, response_trailers };
enum { of_stream, of_route };
// wait is until the filter lets the request go on; bodies wait, too. wait_body is the same for
// the body of a response: the upstream is not read on.
// drop_body is that of a body that goes nowhere.
enum { go_on, stop, buffer_all, wait, wait_body = 2, drop_body };
enum { received_request_body, buffered_request_body, received_response_body };

size_t envoy_dynamic_module_callback_http_get_headers_size(stream, int kind);
bool envoy_dynamic_module_callback_http_get_headers(stream, int kind, header *result);
bool envoy_dynamic_module_callback_http_get_header(stream, int kind, buffer name, buffer *result, size_t index, size_t *count);
// Replaces all values there are; without a value it removes them.
bool envoy_dynamic_module_callback_http_set_header(stream, int kind, buffer name, buffer value);
bool envoy_dynamic_module_callback_http_get_metadata_string(stream, int of, buffer ns, buffer key, buffer *result);
// What is scheduled from any thread happens on the request's, if there still is one.
void *envoy_dynamic_module_callback_http_filter_scheduler_new(stream);
void envoy_dynamic_module_callback_http_filter_scheduler_commit(void *scheduler, uint64_t event);
void envoy_dynamic_module_callback_http_filter_scheduler_delete(void *scheduler);
void envoy_dynamic_module_callback_http_filter_continue_decoding(stream);
void envoy_dynamic_module_callback_http_filter_continue_encoding(stream);
size_t envoy_dynamic_module_callback_http_get_body_size(stream, int body);
// The slices of the buffer in which a body is.
size_t envoy_dynamic_module_callback_http_get_body_chunks_size(stream, int body);
bool envoy_dynamic_module_callback_http_get_body_chunks(stream, int body, buffer *result);
// How much of a request's body Envoy keeps for filters and retries.
uint64_t envoy_dynamic_module_callback_http_get_buffer_limit(stream);
// If the response has begun, this resets the request instead.
void envoy_dynamic_module_callback_http_send_response(stream, uint32_t status, header *headers, size_t count, buffer body, buffer details);

// The same for the filter of a connection, of which envoy is what it is to Envoy.
void *envoy_dynamic_module_callback_network_filter_scheduler_new(void *envoy);
void envoy_dynamic_module_callback_network_filter_scheduler_commit(void *scheduler, uint64_t event);
void envoy_dynamic_module_callback_network_filter_scheduler_delete(void *scheduler);
void envoy_dynamic_module_callback_network_filter_continue_reading(void *envoy);
// What is to be written is dropped with close_now.
enum { close_now = 1 };
void envoy_dynamic_module_callback_network_filter_close(void *envoy, int how);
