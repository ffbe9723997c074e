// As long as only one agent uses a node, it may have all of it. When there are others,
// all together have a part of the processors, which the greediest share: what one of
// them asks for beyond waits. Its own next request of HTTP/1.1 does not come before,
// and the others find a thread that is free. Nothing is refused, and nothing has to be
// configured.
#define _GNU_SOURCE
#include "pace.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Times are in nanoseconds of the monotonic clock.
static const uint64_t
	// An agent counts as one of several for as long after its last request.
	recent = 10000000000,
	// How often the part of each is found.
	share_every = 50000000,
	// What an agent may have ahead of its part.
	burst = 20000000;

struct agent {
	agent *next;
	// active is when it last asked, due until when its part is spent, and used what it
	// was given since the parts were found.
	_Atomic uint64_t active, due, used;
	// uses is how much of a processor it has used of late, for share only.
	double uses;
	size_t length;
	char name[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static agent *_Atomic agents;
static _Atomic uint64_t shared_at;
// part is how much of a processor the greediest may have each; 0: all they want.
static _Atomic double part;

static uint64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

agent *find_agent(buffer name) {
	pthread_mutex_lock(&lock);
	agent *a = agents;
	while (a && (a->length != name.length || memcmp(a->name, name.ptr, name.length))) a = a->next;
	if (!a && (a = calloc(1, sizeof *a + name.length))) {
		a->length = name.length;
		if (name.length) memcpy(a->name, name.ptr, name.length);
		a->next = agents;
		agents = a; // never freed: a name comes back
	}
	pthread_mutex_unlock(&lock);
	return a;
}

// processors is how many Envoy's workers can keep busy: the supervisor says so.
static double processors(void) {
	const char *said = getenv("POSTERN_PROCESSORS");
	int n = said ? atoi(said) : 1;
	return n < 1 ? 1 : n;
}

// share finds the part of each. Whoever uses less than that has all it asks for, and
// leaves the rest to the others.
static void share(uint64_t t) {
	uint64_t last = shared_at;
	if (t - last < share_every || !atomic_compare_exchange_strong(&shared_at, &last, t)) return;
	size_t n = 0;
	for (agent *a = agents; a; a = a->next) {
		uint64_t active = a->active;
		a->uses = 0.8 * a->uses + 0.2 * (double)atomic_exchange(&a->used, 0) / (double)(t - last);
		n += active && (active > t || t - active < recent);
	}
	if (n < 2) {
		part = 0;
		return;
	}
	// Half, so that there is nearly always a thread that is free.
	double all = processors() / 2, least = all / (double)n, level = least;
	for (int i = 0; i < 5; i++) {
		double rest = all;
		size_t greedy = 0;
		for (agent *a = agents; a; a = a->next) {
			if (a->due > t || a->uses > level) greedy++;
			else rest -= a->uses;
		}
		level = greedy ? rest / (double)greedy : all;
		if (level < least) level = least;
	}
	part = level;
}

// What waits is a heap by time.
typedef struct {
	uint64_t due;
	void *scheduler;
} waiting;

static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t earlier;
static pthread_once_t begun = PTHREAD_ONCE_INIT;
static bool runs;
static waiting *heap;
static size_t heap_length, heap_size;

static void sink(size_t i) {
	for (;;) {
		size_t least = i, left = 2 * i + 1, right = left + 1;
		if (left < heap_length && heap[left].due < heap[least].due) least = left;
		if (right < heap_length && heap[right].due < heap[least].due) least = right;
		if (least == i) return;
		waiting w = heap[i];
		heap[i] = heap[least], heap[least] = w;
		i = least;
	}
}

static bool push(waiting w) {
	if (heap_length == heap_size) {
		size_t size = heap_size ? 2 * heap_size : 1024;
		waiting *more = realloc(heap, size * sizeof *more);
		if (!more) return false;
		heap = more, heap_size = size;
	}
	size_t i = heap_length++;
	for (; i && heap[(i - 1) / 2].due > w.due; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
	heap[i] = w;
	return true;
}

static void *wake(void *unused) {
	pthread_mutex_lock(&queue_lock);
	for (;;) {
		if (!heap_length) {
			pthread_cond_wait(&earlier, &queue_lock);
			continue;
		}
		waiting first = heap[0];
		if (first.due > now()) {
			struct timespec until = {(time_t)(first.due / 1000000000), (long)(first.due % 1000000000)};
			pthread_cond_timedwait(&earlier, &queue_lock, &until);
			continue;
		}
		heap[0] = heap[--heap_length];
		sink(0);
		pthread_mutex_unlock(&queue_lock);
		// A request that has ended meanwhile is not there any more, which Envoy knows.
		envoy_dynamic_module_callback_http_filter_scheduler_commit(first.scheduler, 0);
		envoy_dynamic_module_callback_http_filter_scheduler_delete(first.scheduler);
		pthread_mutex_lock(&queue_lock);
	}
	return NULL;
}

static void begin(void) {
	pthread_condattr_t monotonic;
	sigset_t all, before;
	pthread_t thread;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&earlier, &monotonic);
	sigfillset(&all); // signals are for Envoy's threads
	pthread_sigmask(SIG_SETMASK, &all, &before);
	runs = !pthread_create(&thread, NULL, wake, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

bool pace(agent *a, stream s, uint64_t cost) {
	uint64_t t = now(), due = a->due, then;
	share(t);
	double of = part;
	a->active = t;
	a->used += cost;
	if (of <= 0) return true;
	uint64_t takes = (uint64_t)((double)cost / of);
	do then = (due + burst > t ? due : t - burst) + takes;
	while (!atomic_compare_exchange_weak(&a->due, &due, then));
	if (then <= t) return true;
	pthread_once(&begun, begin);
	// Without a thread or memory to wait with, a request does not wait.
	if (!runs) return true;
	waiting w = {then, envoy_dynamic_module_callback_http_filter_scheduler_new(s)};
	if (!w.scheduler) return true;
	pthread_mutex_lock(&queue_lock);
	bool first = !heap_length || then < heap[0].due, kept = push(w);
	if (first) pthread_cond_signal(&earlier);
	pthread_mutex_unlock(&queue_lock);
	if (!kept) envoy_dynamic_module_callback_http_filter_scheduler_delete(w.scheduler);
	return !kept;
}
