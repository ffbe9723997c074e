// Drives the hooks without Envoy and Go. A check that does not hold ends the program.
#include "../pace.c"

#include "../hooks.c"
#include "envoy.h"
#include <sched.h>

int checkHeaders(stream s, int kind, header *hs, size_t n, buffer rule, uintptr_t agent, bool body) { return go_on; }
int putCredential(stream s, header *hs, size_t n, buffer rule) { return go_on; }
int refuse(stream s, int kind) { return stop; }
size_t envoy_dynamic_module_callback_http_get_headers_size(stream s, int kind) { return 0; }
bool envoy_dynamic_module_callback_http_get_headers(stream s, int kind, header *result) { return true; }
bool envoy_dynamic_module_callback_http_get_metadata_string(stream s, int of, buffer ns, buffer key, buffer *result) { return false; }
static const char *method = "GET";
bool envoy_dynamic_module_callback_http_get_header(stream s, int kind, buffer name, buffer *result, size_t index, size_t *count) {
	*result = (buffer){method, strlen(method)};
	return true;
}
static uint64_t buffer_limit;
uint64_t envoy_dynamic_module_callback_http_get_buffer_limit(stream s) { return buffer_limit; }
static int closed, refused;
void envoy_dynamic_module_callback_network_filter_close(void *envoy, int how) { closed++; }
static int continued;
void envoy_dynamic_module_callback_http_filter_continue_decoding(stream s) { continued++; }
void envoy_dynamic_module_callback_http_send_response(stream s, uint32_t status, header *hs, size_t n, buffer body, buffer details) {
	CHECK(status == 429);
	refused++;
}
static int encoded;
void envoy_dynamic_module_callback_http_filter_continue_encoding(stream s) { encoded++; }
static size_t body_size;
size_t envoy_dynamic_module_callback_http_get_body_size(stream s, int body) { return body_size; }
static size_t pieces = 1;
size_t envoy_dynamic_module_callback_http_get_body_chunks_size(stream s, int body) { return pieces; }
bool envoy_dynamic_module_callback_http_get_body_chunks(stream s, int body, buffer *result) {
	for (size_t i = 0; i < pieces; i++) result[i] = (buffer){NULL, body_size / pieces};
	return true;
}
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

static int asked(void *r) { return envoy_dynamic_module_on_http_filter_request_headers(r, r, true); }

// remembers checks what counts for how much of an agent's memory.
static void remembers(void) {
	enum { requests = 1000 };
	waiter *c = connects("c");
	void *open[requests], *other = asks("d");
	budget = of_connection + 10 * (of_request + of_upstream);
	refused = 0;
	for (int i = 0; i < 10; i++) CHECK(asked(open[i] = asks("c")) == go_on);
	CHECK(asked(open[10] = asks("c")) == stop && refused == 1);
	CHECK(asked(other) == go_on); // each agent has its own
	CHECK(reads(c, 1, false) == go_on && !closed);
	envoy_dynamic_module_on_http_filter_destroy(open[10]);

	// What has ended counts no more. A CONNECT goes to no upstream.
	envoy_dynamic_module_on_http_filter_destroy(open[9]);
	method = "CONNECT";
	CHECK(asked(open[9] = asks("c")) == go_on);
	CHECK(asked(open[10] = asks("c")) == go_on);
	CHECK(asked(open[11] = asks("c")) == stop);

	// Refused requests that do not end count, too, and beyond that connections are closed.
	int n = 12;
	for (; !overdrawn(c->agent); n++) CHECK(asked(open[n] = asks("c")) == stop);
	CHECK(n < 20);
	CHECK(reads(c, 0, true) == go_on && !closed);
	CHECK(reads(c, 1, false) == stop && closed == 1);
	while (n > 0) envoy_dynamic_module_on_http_filter_destroy(open[--n]);
	CHECK(*held_by(c->agent) == of_connection);

	// A body that is buffered whole counts as it comes; others are counted already, but for the waste
	// of their pieces: never more than there is, nor than in as many bytes as may wait.
	method = "PUT";
	request *r = asks("c");
	CHECK(asked(r) == go_on);
	int64_t held = *held_by(c->agent);
	body_size = 1 << 20, buffer_limit = most_buffered;
	for (int i = 0; i < 100; i++) CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on);
	CHECK(*held_by(c->agent) == held + of_slice * 2 * most_buffered / (1 << 20));
	body_size = 0;
	CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, true) == go_on);
	CHECK(*held_by(c->agent) == held + of_slice * 2 * most_buffered / (1 << 20));
	envoy_dynamic_module_on_http_filter_destroy(r);
	r = asks("c");
	CHECK(asked(r) == go_on);
	enum { waste = of_page + of_slice - 513 };
	for (int i = 1; i <= 1000; i++) {
		body_size = 513;
		CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on);
		int64_t most = waste * 2 * most_buffered / 513;
		CHECK(*held_by(c->agent) == held + (i * 2 * waste < most ? i * 2 * waste : most));
	}
	envoy_dynamic_module_on_http_filter_destroy(r);
	r = asks("c");
	CHECK(asked(r) == go_on);
	budget = *held_by(c->agent);
	CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == drop_body);
	budget = of_connection + 10 * (of_request + of_upstream);
	envoy_dynamic_module_on_http_filter_destroy(r);
	r = asks("c");
	CHECK(asked(r) == go_on);
	body_size = 1 << 20;
	buffer_limit = 16 << 20;
	CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on);
	CHECK(*held_by(c->agent) == held + 2 * ((1 << 20) + of_slice));
	for (int i = 0; i < 3; i++) CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on);
	CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == drop_body);
	envoy_dynamic_module_on_http_filter_destroy(r);

	// A piece that Envoy does not pack counts for its page, however many come at once.
	for (pieces = 1; pieces < 200; pieces += 100) {
		r = asks("c");
		CHECK(asked(r) == go_on);
		held = *held_by(c->agent);
		body_size = 512 * pieces;
		CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on && *held_by(c->agent) == held + 2 * (int64_t)body_size);
		body_size = 513 * pieces, held = *held_by(c->agent);
		CHECK(envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on);
		CHECK(*held_by(c->agent) == held + 2 * (int64_t)pieces * (of_page + of_slice));
		envoy_dynamic_module_on_http_filter_destroy(r);
	}

	// Of an answer, which goes on, no more than of_answers counts; of what is asked, all.
	budget = 128 << 20, pieces = 1, body_size = 513;
	r = asks("c");
	CHECK(asked(r) == go_on);
	held = *held_by(c->agent);
	for (int i = 0; i < 10000; i++) CHECK(envoy_dynamic_module_on_http_filter_response_body(r, r, false) == go_on);
	CHECK(*held_by(c->agent) > held + of_answers && *held_by(c->agent) <= held + of_answers + 2 * (of_page + of_slice));
	int fit = 0;
	while (envoy_dynamic_module_on_http_filter_request_body(r, r, false) == go_on) fit++;
	CHECK(fit > 10000 && fit < 12000);
	envoy_dynamic_module_on_http_filter_destroy(r);
	envoy_dynamic_module_on_http_filter_destroy(other);
	envoy_dynamic_module_on_network_filter_destroy(c);
}

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
	CHECK(*held_by(find_agent((buffer){"a", 1})) == 0 && *held_by(find_agent((buffer){"b", 1})) == 0);
	remembers();
	return 0;
}
