// While only one agent uses a node, it may have all of the node. While there are others,
// the agents that ask for most share a part of the processors, and whatever they ask for
// beyond that waits: what has come on their connections is not read, and a request does
// not go on. So the others find a thread that is free. Nothing is refused, and nothing
// has to be configured.
#define _GNU_SOURCE
#include "pace.h"

#include <pthread.h>
#include <signal.h>
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
	burst = 10000000,
	// What an agent's requests may have ahead that have been charged for by reads.
	most_credit = 5 * each_read;

// most_waiting bounds the requests of an agent that wait. Further ones go on: they are
// charged, and the agent's connections are not read until that is made up for.
static const size_t most_waiting = 1000;

typedef struct {
	waiter *first, *last;
	size_t length;
} queue;

struct agent {
	agent *next;
	// active is when it last asked, due until when its part is spent, used what it was
	// given since the parts were found, and credit what it has been charged for reads
	// that its requests have not used yet.
	uint64_t active, due, used, credit;
	// uses is how much of a processor it has used of late.
	double uses;
	// Requests go before reads: nothing more is read while a request waits.
	queue waiting[2];
	size_t length;
	char name[];
};

// lock is held for whatever follows.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static bool began, runs;
static agent *agents;
static uint64_t shared_at;
// part is how much of a processor the greediest may have each; 0: all they want.
static double part;
// passing counts the reads that have waited and are being worked on. There are few at a
// time, so that what they lead to does not come all at once.
static int passing;

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
	static int n;
	if (!n) {
		const char *said = getenv("POSTERN_PROCESSORS");
		n = said ? atoi(said) : 1;
		if (n < 1) n = 1;
	}
	return n;
}

// share finds the part of each. Whoever uses less than that has all it asks for, and
// leaves the rest to the others.
static void share(uint64_t t) {
	if (t - shared_at < share_every) return;
	size_t n = 0;
	for (agent *a = agents; a; a = a->next) {
		a->uses = 0.8 * a->uses + 0.2 * (double)a->used / (double)(t - shared_at);
		a->used = 0;
		n += a->active && t - a->active < recent;
	}
	shared_at = t;
	if (n < 2) {
		part = 0;
		return;
	}
	// A quarter, so that there is nearly always a thread that is free, and a processor.
	double all = processors() / 4, least = all / (double)n, level = least;
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

static void spend(agent *a, uint64_t cost, uint64_t t) {
	a->used += cost;
	if (part > 0) a->due = (a->due + burst > t ? a->due : t - burst) + (uint64_t)((double)cost / part);
}

static void enqueue(waiter *w) {
	queue *q = &w->agent->waiting[w->kind];
	w->before = q->last, w->after = NULL;
	*(q->last ? &q->last->after : &q->first) = w;
	q->last = w;
	q->length++;
}

// dequeue returns the waiter's scheduler.
static void *dequeue(waiter *w) {
	queue *q = &w->agent->waiting[w->kind];
	*(w->before ? &w->before->after : &q->first) = w->after;
	*(w->after ? &w->after->before : &q->last) = w->before;
	q->length--;
	void *scheduler = w->scheduler;
	w->scheduler = NULL;
	return scheduler;
}

// Envoy's schedulers, by kind.
static const struct {
	void *(*new)(void *envoy);
	void (*commit)(void *, uint64_t event);
	void (*delete)(void *);
} schedulers[] = {
	{
		envoy_dynamic_module_callback_http_filter_scheduler_new,
		envoy_dynamic_module_callback_http_filter_scheduler_commit,
		envoy_dynamic_module_callback_http_filter_scheduler_delete,
	},
	{
		envoy_dynamic_module_callback_network_filter_scheduler_new,
		envoy_dynamic_module_callback_network_filter_scheduler_commit,
		envoy_dynamic_module_callback_network_filter_scheduler_delete,
	},
};

// first_of returns which of the agent's waiters goes on next, if one may.
static waiter *first_of(const agent *a) {
	if (a->waiting[a_request].first) return a->waiting[a_request].first;
	return passing && passing >= processors() / 2 ? NULL : a->waiting[a_read].first;
}

// wake lets what waits go on, that of an agent one after the other.
static void *wake(void *unused) {
	pthread_mutex_lock(&lock);
	for (;;) {
		uint64_t t = now(), next = UINT64_MAX;
		waiter *w = NULL;
		for (agent *a = agents; a; a = a->next) {
			waiter *first = first_of(a);
			if (!first || a->due >= next) continue;
			w = first, next = a->due;
		}
		if (w && next <= t) {
			int kind = w->kind;
			spend(w->agent, w->cost, t);
			if (kind == a_read && !w->passing) {
				w->passing = true;
				passing++;
			}
			void *scheduler = dequeue(w);
			pthread_mutex_unlock(&lock);
			// If it has ended in the meantime, Envoy does nothing.
			schedulers[kind].commit(scheduler, 0);
			schedulers[kind].delete(scheduler);
			pthread_mutex_lock(&lock);
		} else if (w) {
			struct timespec until = {(time_t)(next / 1000000000), (long)(next % 1000000000)};
			pthread_cond_timedwait(&changed, &lock, &until);
		} else {
			pthread_cond_wait(&changed, &lock);
		}
	}
	return NULL;
}

static void begin(void) {
	pthread_condattr_t monotonic;
	sigset_t all, before;
	pthread_t thread;
	began = true;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &monotonic);
	sigfillset(&all); // signals are for Envoy's threads
	pthread_sigmask(SIG_SETMASK, &all, &before);
	runs = !pthread_create(&thread, NULL, wake, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void charge(agent *a, uint64_t cost) {
	pthread_mutex_lock(&lock);
	spend(a, cost, now());
	pthread_mutex_unlock(&lock);
}

bool pace(waiter *w, void *envoy, uint64_t cost) {
	agent *a = w->agent;
	pthread_mutex_lock(&lock);
	if (w->scheduler) { // more of what waits has come
		pthread_mutex_unlock(&lock);
		return false;
	}
	uint64_t t = now();
	share(t);
	a->active = t;
	if (w->kind == a_read) {
		a->credit += cost;
		if (a->credit > most_credit) a->credit = most_credit;
	} else {
		uint64_t paid = a->credit < cost ? a->credit : cost;
		a->credit -= paid;
		cost -= paid;
	}
	bool after = a->waiting[a_request].first || (w->kind == a_read && a->waiting[a_read].first);
	bool waits = part > 0 && cost && (after || a->due > t) && (w->kind == a_read || a->waiting[a_request].length < most_waiting);
	if (waits && !began) begin();
	// Without a thread or memory to wait with, it does not wait.
	waits = waits && runs && (w->scheduler = schedulers[w->kind].new(envoy));
	if (waits) {
		w->cost = cost;
		enqueue(w);
		if (first_of(a) == w) pthread_cond_signal(&changed);
	} else {
		spend(a, cost, t);
	}
	pthread_mutex_unlock(&lock);
	return !waits;
}

static void end_pass(waiter *w) {
	if (!w->passing) return;
	w->passing = false;
	passing--;
	pthread_cond_signal(&changed);
}

void passed(waiter *w) {
	pthread_mutex_lock(&lock);
	end_pass(w);
	pthread_mutex_unlock(&lock);
}

void forget(waiter *w) {
	pthread_mutex_lock(&lock);
	end_pass(w);
	void *scheduler = w->scheduler ? dequeue(w) : NULL;
	pthread_mutex_unlock(&lock);
	if (scheduler) schedulers[w->kind].delete(scheduler);
}
