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

// A filter is its configuration: there is nothing else to keep of a stream.
typedef struct {
	const char *name;
	agent *agent;
} filter;

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
const void *envoy_dynamic_module_on_http_filter_new(const void *config, stream s) { return config; }

// What a request takes of a processor, in nanoseconds, about (docs/performance.md). A
// CONNECT has a TLS handshake to come, and long headers many patterns to be matched.
enum { each_request = 120000, each_connect = 700000, each_byte = 60 };

static uint64_t cost(const header *hs, size_t n) {
	uint64_t c = each_request;
	for (size_t i = 0; i < n; i++) {
		c += each_byte * (hs[i].name.length + hs[i].value.length);
		if (hs[i].value.length == 7 && hs[i].name.length == 7 && !memcmp(hs[i].name.ptr, ":method", 7) && !memcmp(hs[i].value.ptr, "CONNECT", 7))
			c += each_connect;
	}
	return c;
}

static int run(stream s, const void *of, int kind, bool paced) {
	const filter *f = of;
	header hs[most];
	buffer rule = {NULL, 0};
	size_t n = envoy_dynamic_module_callback_http_get_headers_size(s, kind);
	// More than were announced are not looked at, so they are not let through.
	if (n > most || !envoy_dynamic_module_callback_http_get_headers(s, kind, hs)) return refuse(s, kind);
	if (!paced && !pace(f->agent, s, cost(hs, n))) return wait;
	envoy_dynamic_module_callback_http_get_metadata_string(s, of_route, (buffer){NAMESPACE, sizeof NAMESPACE - 1}, (buffer){KEY, sizeof KEY - 1}, &rule);
	return f->name == put ? putCredential(s, hs, n, rule) : checkHeaders(s, kind, hs, n, rule);
}

static bool puts_key(const void *f) { return ((const filter *)f)->name == put; }

static int request(stream s, const void *f, bool paced) {
	return !puts_key(f) && !recorded() ? unrecorded(s) : run(s, f, request_headers, paced);
}
int envoy_dynamic_module_on_http_filter_request_headers(stream s, const void *f, bool end) { return request(s, f, puts_key(f)); }
int envoy_dynamic_module_on_http_filter_request_trailers(stream s, const void *f) { return puts_key(f) ? go_on : run(s, f, request_trailers, true); }
int envoy_dynamic_module_on_http_filter_response_headers(stream s, const void *f, bool end) { return puts_key(f) ? go_on : run(s, f, response_headers, true); }
int envoy_dynamic_module_on_http_filter_response_trailers(stream s, const void *f) { return puts_key(f) ? go_on : run(s, f, response_trailers, true); }

// A request that has waited goes on.
void envoy_dynamic_module_on_http_filter_scheduled(stream s, const void *f, uint64_t event) {
	if (request(s, f, true) == go_on) envoy_dynamic_module_callback_http_filter_continue_decoding(s);
}

int envoy_dynamic_module_on_http_filter_request_body(stream s, const void *f, bool end) { return go_on; }
int envoy_dynamic_module_on_http_filter_response_body(stream s, const void *f, bool end) { return go_on; }
int envoy_dynamic_module_on_http_filter_local_reply(stream s, const void *f, uint32_t status, buffer details, bool reset) { return go_on; }
// There is no configuration by route: what is known of a rule is in its metadata.
const void *envoy_dynamic_module_on_http_filter_per_route_config_new(buffer name, buffer config) { return NULL; }

// Of no use here, but Envoy loads no module that has not all of them.
#define UNUSED(hook) void envoy_dynamic_module_on_http_filter_##hook(void) {}
UNUSED(destroy)
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
