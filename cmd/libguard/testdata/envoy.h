// What of Envoy the tests of this folder need: its schedulers.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(holds) \
	do { \
		if (!(holds)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #holds); \
			exit(1); \
		} \
	} while (0)

// How many schedulers there are, and for which waiter the last one was used.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t used = PTHREAD_COND_INITIALIZER;
static int alive_schedulers, commits;
static void *last;

static void *scheduler_new(void *envoy) {
	void **s = malloc(sizeof *s);
	*s = envoy;
	pthread_mutex_lock(&mutex);
	alive_schedulers++;
	pthread_mutex_unlock(&mutex);
	return s;
}
static void scheduler_commit(void *s, uint64_t event) {
	if (event & of_end) return; // a thread is only asked whether it is in time
	pthread_mutex_lock(&mutex);
	last = *(void **)s;
	commits++;
	pthread_cond_signal(&used);
	pthread_mutex_unlock(&mutex);
}
static void scheduler_delete(void *s) {
	pthread_mutex_lock(&mutex);
	alive_schedulers--;
	pthread_mutex_unlock(&mutex);
	free(s);
}

static int alive(void) {
	pthread_mutex_lock(&mutex);
	int n = alive_schedulers;
	pthread_mutex_unlock(&mutex);
	return n;
}

// resumed waits until one more waiter may go on, and returns it.
static void *resumed(void) {
	static int seen;
	pthread_mutex_lock(&mutex);
	while (commits == seen) pthread_cond_wait(&used, &mutex);
	CHECK(commits == ++seen);
	void *w = last;
	pthread_mutex_unlock(&mutex);
	return w;
}

void *envoy_dynamic_module_callback_http_filter_scheduler_new(void *envoy) { return scheduler_new(envoy); }
void envoy_dynamic_module_callback_http_filter_scheduler_commit(void *s, uint64_t event) { scheduler_commit(s, event); }
void envoy_dynamic_module_callback_http_filter_scheduler_delete(void *s) { scheduler_delete(s); }
void *envoy_dynamic_module_callback_network_filter_scheduler_new(void *envoy) { return scheduler_new(envoy); }
void envoy_dynamic_module_callback_network_filter_scheduler_commit(void *s, uint64_t event) { scheduler_commit(s, event); }
void envoy_dynamic_module_callback_network_filter_scheduler_delete(void *s) { scheduler_delete(s); }
