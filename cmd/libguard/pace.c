// While only one agent uses a node, it may have all of the node. While there are others,
// each may have a modest part, and whatever it asks for beyond that waits: what has come on
// its connections is not read, a request does not go on, and what an upstream answers is not
// passed on. An agent of which much waits is greedy: it has no modest part, but shares with
// its like what the others leave. Nothing is refused, and nothing has to be configured.
//
// Agents together may use as much of the processors as leaves Envoy's threads in time for
// what comes next. That is measured all the time, and so is what each agent uses.
#define _GNU_SOURCE
#include "pace.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Times are in nanoseconds.
static const uint64_t
	// An agent counts as one of several for as long after its last request.
	recent = 1000000000,
	// How often the part of each is found.
	share_every = 50000000,
	// How often a thread is asked whether it is in time, at least.
	ask_every = 2000000,
	// A thread is in time that does within this what it is asked to.
	in_time = 150000,
	// An agent of which not much has waited for as long is no longer greedy.
	forgiven = 1000000000,
	// What a modest and a greedy agent may have ahead of its part. What is ahead does not wait, so
	// of a greedy agent all that has come would go on at once.
	burst = 10000000, greedy_burst = 1000000;

static const double
	// The part of the processors that is modest: half of what each of the agents could have,
	// at least an eighth.
	modest_share = 0.5, least_modest = 0.125,
	// The least part of the processors that each greedy agent has.
	least = 0.125;

enum {
	// As many waiters are much.
	much = 4,
	// most_waiting bounds the requests of an agent that wait. Further ones go on: what they
	// use counts, and the agent's connections are not read until that is made up for.
	most_waiting = 1000,
	// most_credit bounds the requests that go on because a read has.
	most_credit = 5,
};

typedef struct {
	waiter *first, *last;
	_Atomic size_t length;
} queue;

struct agent {
	agent *next;
	// active is when it last asked, due until when its part is spent, and used what it has used
	// since the parts were found.
	_Atomic uint64_t active, due, used;
	// waited is when much of it last waited.
	uint64_t waited;
	_Atomic bool greedy;
	// credit is how many of its reads have gone on of which no request has come.
	_Atomic int credit;
	// holds is how much memory what it has open can take.
	_Atomic int64_t holds;
	// uses is how much of a processor it has used of late.
	double uses;
	// Requests go first and reads last: nothing more is read while something else waits.
	queue waiting[3];
	size_t length;
	char name[];
};

// lock is held for what is not atomic. Whoever does not have to wait takes it only when the
// parts are to be found.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static bool began, runs;
static agent *agents;
static _Atomic uint64_t shared_at;
// together is how much of the processors agents may use; 1: all.
static _Atomic double together = 1;
// modest and part are how much of a processor a modest and a greedy agent may have; 0: all
// that it wants.
static _Atomic double modest, part;
// passing counts the waiters that go on, and have not yet done what they waited for. There
// are few at a time, so that it does not come all at once.
static int passing;

static uint64_t clock_of(clockid_t id) {
	struct timespec t;
	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t now(void) { return clock_of(CLOCK_MONOTONIC); }

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

_Atomic int64_t *held_by(agent *a) { return &a->holds; }

static double max(double a, double b) { return a > b ? a : b; }

// processors is how many Envoy's workers can keep busy: the supervisor says so.
static int processors(void) {
	static int n;
	if (!n) {
		const char *said = getenv("POSTERN_PROCESSORS");
		n = said ? atoi(said) : 1;
		if (n < 1) n = 1;
	}
	return n;
}

// share finds the part of each.
static void share(uint64_t t) {
	double lasted = (double)(t - shared_at), rest = together * processors();
	size_t busy = 0, greedy = 0;
	shared_at = t;
	for (agent *a = agents; a; a = a->next) {
		a->uses = 0.8 * a->uses + 0.2 * (double)atomic_exchange(&a->used, 0) / lasted;
		busy += a->active && a->active + recent > t;
		if (a->waiting[a_request].length + a->waiting[an_answer].length + a->waiting[a_read].length >= much) a->waited = t;
		a->greedy = a->waited && t - a->waited < forgiven;
		if (a->greedy) greedy++;
		else rest -= a->uses;
	}
	if (busy < 2) {
		modest = part = 0;
		for (agent *a = agents; a; a = a->next) a->due = 0;
		if (began) pthread_cond_signal(&changed);
		return;
	}
	modest = processors() * max(modest_share / (double)busy, least_modest);
	part = max(rest / (double)(greedy ? greedy : 1), least * processors());
}

// at_least raises a value.
static void at_least(_Atomic uint64_t *value, uint64_t to) {
	for (uint64_t was = *value; was < to && !atomic_compare_exchange_weak(value, &was, to);) {}
}

void spend(agent *a, uint64_t time) {
	double may = a->greedy ? part : max(part, modest);
	a->used += time;
	if (may <= 0) return;
	at_least(&a->due, now() - (a->greedy ? greedy_burst : burst));
	a->due += (uint64_t)((double)time / may);
}

void works(agent *a) {
	static _Thread_local agent *before;
	static _Thread_local uint64_t since;
	if (part > 0) {
		// The processor's time: a thread that sleeps uses none.
		uint64_t t = clock_of(CLOCK_THREAD_CPUTIME_ID);
		if (before) spend(before, t - since);
		before = a, since = t;
	} else {
		before = NULL;
	}
}

static void enqueue(waiter *w) {
	queue *q = &w->agent->waiting[w->kind];
	w->before = q->last, w->after = NULL;
	*(q->last ? &q->last->after : &q->first) = w;
	q->last = w;
	q->length++;
}

// dequeue returns the waiter's scheduler. From then on its memory may be freed.
static void *dequeue(waiter *w) {
	queue *q = &w->agent->waiting[w->kind];
	*(w->before ? &w->before->after : &q->first) = w->after;
	*(w->after ? &w->after->before : &q->last) = w->before;
	q->length--;
	return atomic_exchange(&w->scheduler, NULL);
}

// Envoy's schedulers, by kind.
typedef struct {
	void *(*new)(void *envoy);
	void (*commit)(void *, uint64_t event);
	void (*delete)(void *);
} scheduler_of;
#define OF_HTTP \
	{ \
		envoy_dynamic_module_callback_http_filter_scheduler_new, \
		envoy_dynamic_module_callback_http_filter_scheduler_commit, \
		envoy_dynamic_module_callback_http_filter_scheduler_delete, \
	}
static const scheduler_of schedulers[] = {
	[a_request] = OF_HTTP,
	[an_answer] = OF_HTTP,
	[a_read] = {
		envoy_dynamic_module_callback_network_filter_scheduler_new,
		envoy_dynamic_module_callback_network_filter_scheduler_commit,
		envoy_dynamic_module_callback_network_filter_scheduler_delete,
	},
};

static uint64_t event_of(int kind, uint64_t t, bool end) { return t << 2 | (kind == an_answer ? of_answer : 0) | (end ? of_end : 0); }

// first_of returns which of the agent's waiters goes on next, or NULL.
static waiter *first_of(const agent *a) {
	for (int kind = a_request; kind <= a_read; kind++)
		if (a->waiting[kind].first) return a->waiting[kind].first;
	return NULL;
}

// wake lets what waits go on, that of an agent one after the other.
static void *wake(void *unused) {
	pthread_mutex_lock(&lock);
	for (;;) {
		uint64_t t = now(), next = UINT64_MAX;
		waiter *w = NULL;
		if (!passing || passing < processors() / 2)
			for (agent *a = agents; a; a = a->next) {
				waiter *first = first_of(a);
				if (first && a->due < next) w = first, next = a->due;
			}
		if (w && next <= t) {
			int kind = w->kind;
			w->woken = true;
			// It may wait again before what it waited for has ended: it counts once.
			if (!w->passing) passing++;
			w->passing = true;
			void *scheduler = dequeue(w);
			pthread_mutex_unlock(&lock);
			// If it has ended in the meantime, Envoy does nothing.
			schedulers[kind].commit(scheduler, event_of(kind, t, false));
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

static void start_waking(void) {
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

// take takes one of what is counted, if there is one.
static bool take(_Atomic int *n) {
	for (int had = *n; had > 0;)
		if (atomic_compare_exchange_weak(n, &had, had - 1)) return true;
	return false;
}

// goes reports whether an agent's request or read may go on at once.
static bool goes(agent *a, int kind, uint64_t t) {
	if (kind == a_request && (take(&a->credit) || a->waiting[a_request].length >= most_waiting)) return true;
	for (int before = a_request; before <= kind; before++)
		if (a->waiting[before].length) return false;
	return a->due <= t;
}

// ask has a thread say whether it is in time.
static void ask(int kind, void *envoy, uint64_t t) {
	static _Thread_local uint64_t asked;
	if (t - asked < ask_every) return;
	asked = t;
	void *scheduler = schedulers[kind].new(envoy);
	if (!scheduler) return;
	schedulers[kind].commit(scheduler, event_of(kind, t, true));
	schedulers[kind].delete(scheduler);
}

bool pace(waiter *w, void *envoy) {
	agent *a = w->agent;
	if (w->scheduler || w->woken) return false; // more of what waits has come
	uint64_t t = now(), before = atomic_exchange(&a->active, t);
	if (t - before > recent || t - shared_at > share_every) {
		pthread_mutex_lock(&lock);
		if (t > shared_at) share(t);
		pthread_mutex_unlock(&lock);
	}
	works(a);
	if (part <= 0) return true;
	bool go = goes(a, w->kind, t);
	if (!go) {
		pthread_mutex_lock(&lock);
		if (!began) start_waking();
		// Without a thread or memory to wait with, it does not wait.
		void *scheduler = runs ? schedulers[w->kind].new(envoy) : NULL;
		if (scheduler) {
			w->scheduler = scheduler;
			enqueue(w);
			if (first_of(a) == w) pthread_cond_signal(&changed);
		}
		go = !scheduler;
		pthread_mutex_unlock(&lock);
	}
	if (go && w->kind == a_read && a->credit < most_credit) a->credit++;
	if (go && w->kind != a_request) ask(w->kind, envoy, t);
	return go;
}

static void end(waiter *w) {
	if (!w->passing) return;
	pthread_mutex_lock(&lock);
	w->passing = false;
	passing--;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

void resume(waiter *w, void *envoy, uint64_t event, void (*go_on)(waiter *w, void *envoy)) {
	uint64_t t = now();
	// As late as once in thirty times is in time.
	double to = together * (t - (event >> 2) > in_time ? 1 - 1. / 16 : 1 + 1. / 512);
	together = to > 1 ? 1 : max(to, least);
	if (event & of_end) {
		end(w);
		return;
	}
	w->woken = false;
	works(w->agent);
	if (w->kind == a_read && w->agent->credit < most_credit) w->agent->credit++;
	int kind = w->kind;
	void *scheduler = schedulers[kind].new(envoy);
	if (!scheduler) end(w);
	go_on(w, envoy); // it may be freed then
	if (!scheduler) return;
	schedulers[kind].commit(scheduler, event_of(kind, now(), true));
	schedulers[kind].delete(scheduler);
}

void forget(waiter *w) {
	if (w->scheduler) {
		pthread_mutex_lock(&lock);
		void *scheduler = w->scheduler ? dequeue(w) : NULL;
		pthread_mutex_unlock(&lock);
		if (scheduler) schedulers[w->kind].delete(scheduler);
	}
	end(w);
}
