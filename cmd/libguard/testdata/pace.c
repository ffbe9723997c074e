// Drives pace.c without Envoy. A check that does not hold ends the program.
#include "../pace.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHECK(holds) \
	do { \
		if (!(holds)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #holds); \
			exit(1); \
		} \
	} while (0)

// Envoy's schedulers: how many there are, and for which waiter the last one was used.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t used = PTHREAD_COND_INITIALIZER;
static int schedulers, commits;
static void *last;

static void *scheduler_new(void *envoy) {
	void **s = malloc(sizeof *s);
	*s = envoy;
	pthread_mutex_lock(&mutex);
	schedulers++;
	pthread_mutex_unlock(&mutex);
	return s;
}
static void scheduler_commit(void *s) {
	pthread_mutex_lock(&mutex);
	last = *(void **)s;
	commits++;
	pthread_cond_signal(&used);
	pthread_mutex_unlock(&mutex);
}
static void scheduler_delete(void *s) {
	pthread_mutex_lock(&mutex);
	schedulers--;
	pthread_mutex_unlock(&mutex);
	free(s);
}
void *envoy_dynamic_module_callback_http_filter_scheduler_new(void *envoy) { return scheduler_new(envoy); }
void envoy_dynamic_module_callback_http_filter_scheduler_commit(void *s, uint64_t event) { scheduler_commit(s); }
void envoy_dynamic_module_callback_http_filter_scheduler_delete(void *s) { scheduler_delete(s); }
void *envoy_dynamic_module_callback_network_filter_scheduler_new(void *envoy) { return scheduler_new(envoy); }
void envoy_dynamic_module_callback_network_filter_scheduler_commit(void *s, uint64_t event) { scheduler_commit(s); }
void envoy_dynamic_module_callback_network_filter_scheduler_delete(void *s) { scheduler_delete(s); }

static int alive(void) {
	pthread_mutex_lock(&mutex);
	int n = schedulers;
	pthread_mutex_unlock(&mutex);
	return n;
}

// resumed waits until n waiters in all have gone on, and returns the last of them.
static void *resumed(int n) {
	pthread_mutex_lock(&mutex);
	while (commits < n) pthread_cond_wait(&used, &mutex);
	CHECK(commits == n);
	void *w = last;
	pthread_mutex_unlock(&mutex);
	return w;
}

static const uint64_t second = 1000000000;

static uint64_t clock_now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * second + (uint64_t)t.tv_nsec;
}

static agent *named(const char *name) { return find_agent((buffer){name, 1}); }

static waiter *waits(const char *name, int kind) {
	waiter *w = calloc(1, sizeof *w);
	w->agent = named(name), w->kind = kind;
	return w;
}

static bool paced(waiter *w) { return pace(w, w, each_read); }

int main(void) {
	// Alone an agent has all it asks for.
	waiter *alone = waits("a", a_read);
	charge(alone->agent, 3600 * second);
	for (uint64_t until = clock_now() + second / 5; clock_now() < until;) CHECK(paced(alone));

	// With a neighbour it has not, once the parts are found.
	waiter *neighbour = waits("b", a_read);
	while (paced(alone)) {
		CHECK(paced(neighbour));
		charge(alone->agent, second);
	}
	CHECK(alive() == 1);
	CHECK(!paced(alone)); // it waits once, however much comes
	CHECK(alive() == 1);
	forget(alone);
	CHECK(alive() == 0);

	// What is reset while it waits leaves nothing behind.
	charge(alone->agent, 3600 * second);
	waiter *w = waits("a", a_request);
	for (int i = 0; i < 100000; i++) {
		CHECK(!pace(w, w, second));
		forget(w);
	}
	CHECK(alive() == 0);

	// No more than a thousand requests wait.
	waiter *many[1500];
	int waiting = 0;
	for (int i = 0; i < 1500; i++) {
		many[i] = waits("a", a_request);
		waiting += !pace(many[i], many[i], second);
	}
	CHECK(waiting == 1000);
	CHECK(alive() == 1000);
	CHECK(!paced(alone)); // and then nothing is read
	for (int i = 1499; i >= 0; i--) forget(many[i]);
	forget(alone);
	CHECK(alive() == 0);
	CHECK(paced(neighbour));

	// Requests go on before reads, and one read at a time does (there is one processor).
	waiter *one = waits("c", a_read), *two = waits("c", a_read), *asks = waits("c", a_request);
	charge(one->agent, second / 10);
	CHECK(!paced(one));
	CHECK(!paced(two));
	CHECK(!pace(asks, asks, second / 10));
	CHECK(resumed(1) == asks);
	CHECK(resumed(2) == one);
	CHECK(!paced(one)); // more has come on it
	int n = 2;
	while (n < 100)
		if (!pace(asks, asks, each_read / 100)) CHECK(resumed(++n) == asks);
	passed(one);
	CHECK(resumed(n + 1) == two);
	forget(two);
	CHECK(resumed(n + 2) == one);
	passed(one);
	forget(one);
	return 0;
}
