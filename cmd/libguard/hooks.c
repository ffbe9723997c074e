// The hooks that Envoy looks up. Those in which nothing is decided end here, so that
// a body does not enter Go; the others take the headers along.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "_cgo_export.h"
#include "names.h"
#include "pace.h"

// More headers than there can be: Envoy takes 100 of either side (max_headers_count),
// without those of HTTP/2 and the ones that it adds.
enum { most = 128 };

// LEASE_PATH. Two programs share it, so what it holds is only read and written whole.
static struct {
	uint64_t until, refused;
} *lease;

// Envoy runs in the node's folder. Without a lease there is no module, and no listener.
const char *envoy_dynamic_module_on_program_init(void) {
	int fd = open(LEASE_PATH, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) return NULL;
	if (lseek(fd, 0, SEEK_END) == sizeof *lease) lease = mmap(NULL, sizeof *lease, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return lease && lease != MAP_FAILED ? "v0.2.0" : NULL;
}

// What is decided now is recorded: the log was taken a moment ago.
static bool recorded(void) {
	struct timespec now;
	if (clock_gettime(CLOCK_MONOTONIC, &now)) return false;
	return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec < __atomic_load_n(&lease->until, __ATOMIC_RELAXED);
}

// unrecorded refuses a request. It is counted instead of logged: whoever is refused may
// ask again and again, and what is not taken would pile up.
static int unrecorded(stream s) {
	static const char details[] = UNRECORDED;
	__atomic_fetch_add(&lease->refused, 1, __ATOMIC_RELAXED);
	envoy_dynamic_module_callback_http_send_response(s, 503, NULL, 0, (buffer){NULL, 0}, (buffer){details, sizeof details - 1});
	return stop;
}

static const char put[] = FILTER_PUT, guard[] = FILTER;

// A filter is what is configured, for each request of an agent.
typedef struct {
	const char *name;
	agent *agent;
} filter;

// A request is what is kept of it in one of the filters.
typedef struct {
	const filter *of;
	waiter waits, answer;
} request;

// The configuration is the agent's name.
const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, buffer name, buffer config) {
	filter f = {NULL, find_agent(config)};
	if (name.length == sizeof guard - 1 && !memcmp(name.ptr, guard, name.length)) f.name = guard;
	if (name.length == sizeof put - 1 && !memcmp(name.ptr, put, name.length)) f.name = put;
	filter *kept = f.name && f.agent ? malloc(sizeof f) : NULL;
	if (kept) *kept = f;
	return kept; // NULL: refused
}
void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) { free((void *)config); }
void *envoy_dynamic_module_on_http_filter_new(const void *config, stream s) {
	request *r = calloc(1, sizeof *r);
	if (!r) abort(); // as Envoy does
	r->of = config;
	r->waits.agent = r->answer.agent = r->of->agent;
	r->waits.kind = a_request;
	r->answer.kind = an_answer;
	return r;
}
void envoy_dynamic_module_on_http_filter_destroy(void *r) {
	forget(&((request *)r)->waits);
	forget(&((request *)r)->answer);
	free(r);
}

static int run(stream s, request *r, int kind, bool paced) {
	header hs[most];
	buffer rule = {NULL, 0};
	size_t n = envoy_dynamic_module_callback_http_get_headers_size(s, kind);
	// More than were announced are not looked at, so they are not let through.
	if (n > most || !envoy_dynamic_module_callback_http_get_headers(s, kind, hs)) return refuse(s, kind);
	if (!paced && !pace(&r->waits, s)) return wait;
	envoy_dynamic_module_callback_http_get_metadata_string(s, of_route, (buffer){NAMESPACE, sizeof NAMESPACE - 1}, (buffer){KEY, sizeof KEY - 1}, &rule);
	return r->of->name == put ? putCredential(s, hs, n, rule) : checkHeaders(s, kind, hs, n, rule);
}

static bool puts_key(const void *r) { return ((const request *)r)->of->name == put; }

static int begin(stream s, void *r, bool paced) { return !puts_key(r) && !recorded() ? unrecorded(s) : run(s, r, request_headers, paced); }
int envoy_dynamic_module_on_http_filter_request_headers(stream s, void *r, bool end) { return begin(s, r, puts_key(r)); }
int envoy_dynamic_module_on_http_filter_request_trailers(stream s, void *r) { return puts_key(r) ? go_on : run(s, r, request_trailers, true); }
int envoy_dynamic_module_on_http_filter_response_headers(stream s, void *r, bool end) {
	if (puts_key(r)) return go_on;
	works(((request *)r)->waits.agent);
	return run(s, r, response_headers, true);
}
int envoy_dynamic_module_on_http_filter_response_trailers(stream s, void *r) {
	if (puts_key(r)) return go_on;
	forget(&((request *)r)->answer); // what waits of the body goes before
	return run(s, r, response_trailers, true);
}

// Of a download the body is the work. What is less is not worth the measuring.
enum { least_body = 8192 };

int envoy_dynamic_module_on_http_filter_response_body(stream s, const void *filter, bool end) {
	request *r = (request *)filter;
	if (puts_key(r) || (!r->answer.scheduler && envoy_dynamic_module_callback_http_get_body_size(s, received_response_body) < least_body)) return go_on;
	return pace(&r->answer, s) ? go_on : wait_body;
}

// A request that has waited goes on.
static void decode(waiter *w, stream s) {
	if (begin(s, (char *)w - offsetof(request, waits), true) == go_on) envoy_dynamic_module_callback_http_filter_continue_decoding(s);
}
static void encode(waiter *w, stream s) { envoy_dynamic_module_callback_http_filter_continue_encoding(s); }
void envoy_dynamic_module_on_http_filter_scheduled(stream s, void *r, uint64_t event) {
	if (event & of_answer) resume(&((request *)r)->answer, s, event, encode);
	else resume(&((request *)r)->waits, s, event, decode);
}

int envoy_dynamic_module_on_http_filter_request_body(stream s, const void *f, bool end) { return go_on; }
int envoy_dynamic_module_on_http_filter_local_reply(stream s, const void *f, uint32_t status, buffer details, bool reset) { return go_on; }
// There is no configuration by route: what is known of a rule is in its metadata.
const void *envoy_dynamic_module_on_http_filter_per_route_config_new(buffer name, buffer config) { return NULL; }

// A connection of an agent to its listener: whatever the agent has a node do comes by one,
// handshakes, requests, what is broken and what is reset. Its filter is a waiter.

// The configuration is the agent's name.
const void *envoy_dynamic_module_on_network_filter_config_new(void *envoy, buffer name, buffer config) { return find_agent(config); }
void envoy_dynamic_module_on_network_filter_config_destroy(const void *config) {}
void *envoy_dynamic_module_on_network_filter_new(void *config, void *envoy) {
	waiter *w = calloc(1, sizeof *w);
	if (!w) return NULL; // closed
	w->agent = config;
	w->kind = a_read;
	works(w->agent);
	return w;
}
int envoy_dynamic_module_on_network_filter_new_connection(void *envoy, void *w) { return go_on; }
// An end without bytes leads to nothing, and a roll-out waits for the answer to one
// (node.Probe): however much the agent asks for, it holds up no roll-out.
int envoy_dynamic_module_on_network_filter_read(void *envoy, void *w, size_t length, bool end) { return !length || pace(w, envoy) ? go_on : stop; }
int envoy_dynamic_module_on_network_filter_write(void *envoy, void *w, size_t length, bool end) { return go_on; }
// It ends, which is work, too.
void envoy_dynamic_module_on_network_filter_event(void *envoy, void *w, int event) { works(((waiter *)w)->agent); }

// A read that has waited goes on. The thread then does what the read has led to, the
// handshake or request inside a CONNECT among it, and after that it comes here again.
static void read_on(waiter *w, void *envoy) { envoy_dynamic_module_callback_network_filter_continue_reading(envoy); }
void envoy_dynamic_module_on_network_filter_scheduled(void *envoy, void *w, uint64_t event) { resume(w, envoy, event, read_on); }

void envoy_dynamic_module_on_network_filter_destroy(void *w) {
	forget(w);
	free(w);
}

// Of no use here, but Envoy loads no module that has not all of them.
#define UNUSED(hook) void envoy_dynamic_module_on_http_filter_##hook(void) {}
UNUSED(per_route_config_destroy)
UNUSED(stream_complete)
UNUSED(http_callout_done)
UNUSED(http_stream_headers)
UNUSED(http_stream_data)
UNUSED(http_stream_trailers)
UNUSED(http_stream_complete)
UNUSED(http_stream_reset)
UNUSED(config_scheduled)
UNUSED(config_http_callout_done)
UNUSED(config_http_stream_headers)
UNUSED(config_http_stream_data)
UNUSED(config_http_stream_trailers)
UNUSED(config_http_stream_complete)
UNUSED(config_http_stream_reset)
UNUSED(downstream_above_write_buffer_high_watermark)
UNUSED(downstream_below_write_buffer_low_watermark)
