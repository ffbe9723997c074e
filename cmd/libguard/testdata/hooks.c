// Drives the hooks without Envoy and Go. A check that does not hold ends the program.
#include "../pace.c"

#include "../hooks.c"
#include "envoy.h"
#include <sched.h>

int checkHeaders(stream s, int kind, header *hs, size_t n, buffer rule) { return go_on; }
int putCredential(stream s, header *hs, size_t n, buffer rule) { return go_on; }
int refuse(stream s, int kind) { return stop; }
size_t envoy_dynamic_module_callback_http_get_headers_size(stream s, int kind) { return 0; }
bool envoy_dynamic_module_callback_http_get_headers(stream s, int kind, header *result) { return true; }
bool envoy_dynamic_module_callback_http_get_metadata_string(stream s, int of, buffer ns, buffer key, buffer *result) { return false; }
static int continued;
void envoy_dynamic_module_callback_http_filter_continue_decoding(stream s) { continued++; }
void envoy_dynamic_module_callback_http_send_response(stream s, uint32_t status, header *hs, size_t n, buffer body, buffer details) {}
static int encoded;
void envoy_dynamic_module_callback_http_filter_continue_encoding(stream s) { encoded++; }
static size_t body_size;
size_t envoy_dynamic_module_callback_http_get_body_size(stream s, int body) { return body_size; }
void envoy_dynamic_module_callback_network_filter_continue_reading(void *envoy) { continued++; }

// connects returns the filter of a new connection of an agent.
static void *connects(const char *name) {
	static const buffer gate = {"gate", 4};
	return envoy_dynamic_module_on_network_filter_new((void *)envoy_dynamic_module_on_network_filter_config_new(NULL, gate, (buffer){name, 1}), NULL);
}

// asks returns the filter of a new request of an agent.
static void *asks(const char *name) {
	static const buffer filter = {FILTER, sizeof FILTER - 1};
	return envoy_dynamic_module_on_http_filter_new(envoy_dynamic_module_on_http_filter_config_new(NULL, filter, (buffer){name, 1}), NULL);
}

static int reads(void *w, size_t length, bool end) { return envoy_dynamic_module_on_network_filter_read(w, w, length, end); }

int main(void) {
	static typeof(*lease) recorded = {UINT64_MAX, 0};
	lease = &recorded;

	// What a greedy agent asks for is not read while another agent works.
	waiter *greedy = connects("a"), *other = connects("b");
	CHECK(reads(greedy, 1, false) == go_on);
	CHECK(reads(other, 1, false) == go_on);
	spend(greedy->agent, UINT64_C(3600000000000));
	CHECK(reads(greedy, 1, false) == stop);

	// An end without bytes is taken at once, and nothing waits for it: what a roll-out asks
	// a node with (node.Probe) is one.
	waiter *probe = connects("a");
	CHECK(reads(probe, 0, true) == go_on);
	CHECK(alive() == 1);

	// An end with bytes is not.
	waiter *last_words = connects("a");
	CHECK(reads(last_words, 1, true) == stop);
	CHECK(alive() == 2);

	// What waits goes on once its agent's part allows it, and ends on its thread afterwards.
	request *r = asks("a");
	((waiter *)greedy)->agent->credit = 0;
	CHECK(envoy_dynamic_module_on_http_filter_request_headers(r, r, true) == wait);
	CHECK(alive() == 3);
	greedy->agent->due = 0;
	pthread_cond_signal(&changed);
	CHECK(resumed() == r);
	envoy_dynamic_module_on_http_filter_scheduled(r, r, event_of(a_request, now(), false));
	CHECK(continued == 1 && passing == 1);
	envoy_dynamic_module_on_http_filter_scheduled(r, r, event_of(a_request, now(), true));
	CHECK(continued == 1);
	CHECK(resumed() == greedy);
	envoy_dynamic_module_on_network_filter_scheduled(greedy, greedy, event_of(a_read, now(), false));
	CHECK(continued == 2 && passing == 1);

	// So does a large body. A small one does not wait, nor does what comes before trailers.
	spend(greedy->agent, UINT64_C(3600000000000));
	body_size = 100;
	CHECK(envoy_dynamic_module_on_http_filter_response_body(r, r, true) == go_on);
	body_size = 100000;
	CHECK(envoy_dynamic_module_on_http_filter_response_body(r, r, false) == wait_body);
	body_size = 100;
	CHECK(envoy_dynamic_module_on_http_filter_response_body(r, r, true) == wait_body);
	greedy->agent->due = 0;
	envoy_dynamic_module_on_network_filter_scheduled(greedy, greedy, event_of(a_read, now(), true));
	CHECK(resumed() == r);
	envoy_dynamic_module_on_http_filter_scheduled(r, r, event_of(an_answer, now(), false));
	CHECK(continued == 2 && encoded == 1 && passing == 1);
	envoy_dynamic_module_on_http_filter_scheduled(r, r, event_of(an_answer, now(), true));
	CHECK(resumed() == last_words);
	spend(greedy->agent, UINT64_C(3600000000000));
	body_size = 100000;
	CHECK(envoy_dynamic_module_on_http_filter_response_body(r, r, false) == wait_body);
	CHECK(((request *)r)->answer.scheduler);
	CHECK(envoy_dynamic_module_on_http_filter_response_trailers(r, r) == go_on);
	CHECK(!((request *)r)->answer.scheduler);
	envoy_dynamic_module_on_http_filter_destroy(r);

	envoy_dynamic_module_on_network_filter_destroy(greedy);
	envoy_dynamic_module_on_network_filter_destroy(other);
	envoy_dynamic_module_on_network_filter_destroy(probe);
	envoy_dynamic_module_on_network_filter_destroy(last_words);
	CHECK(passing == 0);
	while (alive()) sched_yield();
	return 0;
}
