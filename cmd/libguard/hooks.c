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

// An agent holds no more of Envoy's memory than its budget. Each of its connections and
// requests counts for what it can make Envoy hold, from its beginning to its end: whatever an
// agent does not read, and whatever an upstream does not, is in one of the buffers that package
// envoy bounds. A request ends when all of its answer is on the connection, not earlier.
static int64_t budget = INT64_C(1) << 30;

enum {
	// most_buffered is what package envoy calls maxBuffered.
	most_buffered = 64 << 10,
	// A connection to the agent's listener: what was read, and what is to be written.
	of_connection = 256 << 10,
	// A request, answered by Envoy or not; a CONNECT: the connection to the internal listener,
	// both ends of it.
	of_request = 512 << 10,
	// A request that goes on to an upstream: package envoy's maxAhead each way.
	of_upstream = 512 << 10,
	// A request that is to be signed counts for its body and its answer as they come, twice: Envoy
	// keeps both for a retry, too. Of an answer, which goes on, no more than of_answers counts.
	of_answers = 32 << 20,
	// Envoy packs pieces of up to most_packed bytes. A larger one takes pages of its own, and
	// of_slice for what Envoy has to know of it.
	most_packed = 512,
	of_page = 4096,
	of_slice = 384,
};

// Envoy runs in the node's folder. Without a lease there is no module, and no listener.
const char *envoy_dynamic_module_on_program_init(void) {
	int fd = open(LEASE_PATH, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) return NULL;
	if (lseek(fd, 0, SEEK_END) == sizeof *lease) lease = mmap(NULL, sizeof *lease, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	const char *said = getenv("POSTERN_BUDGET");
	if (said) budget = atoll(said);
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

// hold counts memory, and returns whether it is within the agent's budget.
static bool hold(agent *a, int64_t bytes) { return atomic_fetch_add(held_by(a), bytes) + bytes <= budget; }

// Requests beyond the budget are refused. Whoever asks for more and more of them, and takes
// no answer, has its connections closed.
static bool overdrawn(agent *a) { return atomic_load(held_by(a)) > budget + budget / 8; }

// full refuses a request, or ends it.
static int full(stream s) {
	static const char details[] = FULL;
	envoy_dynamic_module_callback_http_send_response(s, 429, NULL, 0, (buffer){NULL, 0}, (buffer){details, sizeof details - 1});
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
	// holds is how much it counts for, answered how much of that is of its answer, and wasteful how
	// much is for the pieces of its body.
	int64_t holds, answered, wasteful;
	// wasted is twice what the pieces of its body have taken besides their bytes; worst is how much
	// that was, at its worst, for as many bytes as may wait.
	int64_t wasted, worst;
	// A body follows the headers.
	bool body;
} request;

static bool holds(request *r, int64_t bytes) {
	r->holds += bytes;
	return hold(r->of->agent, bytes);
}

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
static bool puts_key(const void *r) { return ((const request *)r)->of->name == put; }

void *envoy_dynamic_module_on_http_filter_new(const void *config, stream s) {
	request *r = calloc(1, sizeof *r);
	if (!r) abort(); // as Envoy does
	r->of = config;
	r->waits.agent = r->answer.agent = r->of->agent;
	r->waits.kind = a_request;
	r->answer.kind = an_answer;
	if (!puts_key(r)) holds(r, of_request);
	return r;
}
void envoy_dynamic_module_on_http_filter_destroy(void *r) {
	forget(&((request *)r)->waits);
	forget(&((request *)r)->answer);
	hold(((request *)r)->of->agent, -((request *)r)->holds);
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
	return r->of->name == put ? putCredential(s, hs, n, rule) : checkHeaders(s, kind, hs, n, rule, (uintptr_t)r->of->agent, r->body);
}

// is_connect reports whether a request is a CONNECT. It goes no further than Envoy.
static bool is_connect(stream s) {
	static const char connect[] = "CONNECT", name[] = ":method";
	buffer method = {NULL, 0};
	envoy_dynamic_module_callback_http_get_header(s, request_headers, (buffer){name, sizeof name - 1}, &method, 0, NULL);
	return method.length == sizeof connect - 1 && !memcmp(method.ptr, connect, method.length);
}

static int begin(stream s, void *r, bool paced) { return !puts_key(r) && !recorded() ? unrecorded(s) : run(s, r, request_headers, paced); }
int envoy_dynamic_module_on_http_filter_request_headers(stream s, void *r, bool end) {
	((request *)r)->body = !end;
	if (puts_key(r)) return begin(s, r, true);
	if (!holds(r, is_connect(s) ? 0 : of_upstream)) return recorded() ? full(s) : unrecorded(s);
	return begin(s, r, false);
}
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

// wasted returns how much more than its bytes what has come of a body takes.
static int64_t wasted(stream s, int body) {
	buffer few[64], *slices = few;
	size_t n = envoy_dynamic_module_callback_http_get_body_chunks_size(s, body);
	int64_t bytes = 0;
	if (n > sizeof few / sizeof *few && !(slices = malloc(n * sizeof *slices))) abort();
	if (n && envoy_dynamic_module_callback_http_get_body_chunks(s, body, slices))
		for (size_t i = 0; i < n; i++)
			if (slices[i].length > most_packed) bytes += of_slice + of_page - 1 - (int64_t)(slices[i].length - 1) % of_page;
	if (slices != few) free(slices);
	return bytes;
}

// fits counts what a body takes besides what the request counts for: if it is to be signed, Envoy may
// hold more of it than of others; of another, its pieces may take more than their bytes, while they
// wait for the upstream. It returns whether that is within the agent's budget.
static bool fits(stream s, request *r, int body) {
	if (envoy_dynamic_module_callback_http_get_buffer_limit(s) <= most_buffered) {
		int64_t size = (int64_t)envoy_dynamic_module_callback_http_get_body_size(s, body);
		if (body == received_response_body || !size) return true;
		int64_t now = wasted(s, body), before = r->wasteful;
		r->wasted += 2 * now; // as much may wait behind, where it cannot be seen
		if (now * 2 * most_buffered / size > r->worst) r->worst = now * 2 * most_buffered / size;
		r->wasteful = r->wasted < r->worst ? r->wasted : r->worst;
		return r->wasteful == before || holds(r, r->wasteful - before);
	}
	if (body == received_response_body && r->answered > of_answers) return true;
	int64_t bytes = 2 * ((int64_t)envoy_dynamic_module_callback_http_get_body_size(s, body) + wasted(s, body));
	if (body == received_response_body) r->answered += bytes;
	return holds(r, bytes);
}

int envoy_dynamic_module_on_http_filter_request_body(stream s, const void *filter, bool end) {
	if (puts_key(filter) || fits(s, (request *)filter, received_request_body)) return go_on;
	full(s);
	return drop_body;
}

int envoy_dynamic_module_on_http_filter_response_body(stream s, const void *filter, bool end) {
	request *r = (request *)filter;
	if (!puts_key(r) && !fits(s, r, received_response_body)) {
		full(s);
		return wait_body;
	}
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
	hold(w->agent, of_connection);
	works(w->agent);
	return w;
}
int envoy_dynamic_module_on_network_filter_new_connection(void *envoy, void *w) { return go_on; }
// An end without bytes leads to nothing, and a roll-out waits for the answer to one
// (node.Probe): however much the agent asks for, it holds up no roll-out.
int envoy_dynamic_module_on_network_filter_read(void *envoy, void *w, size_t length, bool end) {
	if (!length) return go_on;
	if (overdrawn(((waiter *)w)->agent)) {
		envoy_dynamic_module_callback_network_filter_close(envoy, close_now);
		return stop;
	}
	return pace(w, envoy) ? go_on : stop;
}
int envoy_dynamic_module_on_network_filter_write(void *envoy, void *w, size_t length, bool end) { return go_on; }
// It ends, which is work, too.
void envoy_dynamic_module_on_network_filter_event(void *envoy, void *w, int event) { works(((waiter *)w)->agent); }

// A read that has waited goes on. The thread then does what the read has led to, the
// handshake or request inside a CONNECT among it, and after that it comes here again.
static void read_on(waiter *w, void *envoy) { envoy_dynamic_module_callback_network_filter_continue_reading(envoy); }
void envoy_dynamic_module_on_network_filter_scheduled(void *envoy, void *w, uint64_t event) { resume(w, envoy, event, read_on); }

void envoy_dynamic_module_on_network_filter_destroy(void *w) {
	forget(w);
	hold(((waiter *)w)->agent, -of_connection);
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
