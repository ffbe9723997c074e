// Drives pace.c without Envoy. A check that does not hold ends the program.
#include "../pace.c"

#include <math.h>
#include <sched.h>
#include <stdio.h>

#include "envoy.h"

static const uint64_t second = 1000000000;

static waiter *waits(const char *name, int kind) {
	waiter *w = calloc(1, sizeof *w);
	w->agent = find_agent((buffer){name, 1}), w->kind = kind;
	return w;
}

static bool paced(waiter *w) { return pace(w, w); }

// done ends what a waiter has waited for, in time.
static void nothing(waiter *w, void *envoy) {}
static void done(waiter *w) { resume(w, w, event_of(w->kind, now(), true), nothing); }

// parts finds the parts anew: of some agents, who have used as much of a second each, and
// are greedy if they have used more than half.
static void parts(int n, agent *const *some, const double *use) {
	pthread_mutex_lock(&lock);
	uint64_t t = now();
	for (agent *a = agents; a; a = a->next) {
		a->active = a->used = a->due = 0;
		a->uses = 0;
		a->waited = 0;
	}
	for (int i = 0; i < n; i++) {
		some[i]->active = t;
		some[i]->uses = use[i];
		some[i]->used = (uint64_t)(use[i] * (double)(t - shared_at));
		some[i]->waited = use[i] > 0.5 ? t : 0;
	}
	share(t);
	pthread_mutex_unlock(&lock);
}

int main(void) {
	// Alone an agent has all it asks for.
	waiter *alone = waits("a", a_read);
	spend(alone->agent, 3600 * second);
	for (uint64_t until = now() + second / 5; now() < until;) CHECK(paced(alone));

	// With a neighbour it has not.
	waiter *neighbour = waits("b", a_read);
	CHECK(paced(neighbour));
	CHECK(part > 0);
	spend(alone->agent, 3600 * second);
	CHECK(!paced(alone));
	CHECK(alive() == 1);
	CHECK(!paced(alone)); // it waits once, however much comes
	CHECK(alive() == 1);
	forget(alone);
	CHECK(alive() == 0);

	// What is reset while it waits leaves nothing behind.
	spend(alone->agent, 3600 * second);
	waiter *w = waits("a", a_request);
	alone->agent->credit = 0;
	for (int i = 0; i < 100000; i++) {
		CHECK(!paced(w));
		forget(w);
	}
	CHECK(alive() == 0);

	// No more than a thousand requests wait.
	waiter *many[1500];
	int waiting = 0;
	for (int i = 0; i < 1500; i++) {
		many[i] = waits("a", a_request);
		waiting += !paced(many[i]);
	}
	CHECK(waiting == 1000);
	CHECK(alive() == 1000);
	CHECK(!paced(alone)); // and then nothing is read
	for (int i = 1499; i >= 0; i--) forget(many[i]);
	forget(alone);
	CHECK(alive() == 0);
	CHECK(paced(neighbour));

	// Requests go on before reads, and one at a time does (there is one processor). Of a read
	// that has gone on one request goes on, too.
	waiter *one = waits("c", a_read), *two = waits("c", a_read), *asks = waits("c", a_request);
	spend(one->agent, second / 10);
	CHECK(!paced(one));
	CHECK(!paced(two));
	CHECK(!paced(asks));
	CHECK(resumed() == asks);
	resume(asks, asks, event_of(a_request, now(), false), nothing);
	done(asks);
	CHECK(resumed() == one);
	resume(one, one, event_of(a_read, now(), false), nothing);
	CHECK(passing == 1);
	CHECK(paced(asks));
	spend(one->agent, second / 10);
	CHECK(!paced(asks));
	CHECK(!paced(one)); // more has come on it
	forget(one);        // and it has ended
	CHECK(resumed() == asks);
	forget(asks);
	CHECK(resumed() == two);
	forget(two);
	CHECK(passing == 0);
	while (alive()) sched_yield();

	// A thread counts for the agent that it works for, and not while it sleeps.
	agent *d = find_agent((buffer){"d", 1}), *e = find_agent((buffer){"e", 1});
	d->used = e->used = 0;
	works(d);
	for (uint64_t until = clock_of(CLOCK_THREAD_CPUTIME_ID) + second / 50; clock_of(CLOCK_THREAD_CPUTIME_ID) < until;) {}
	works(e);
	nanosleep(&(struct timespec){0, 20000000}, NULL);
	works(d);
	CHECK(d->used >= second / 50 && d->used < second / 40);
	CHECK(e->used < second / 200);

	// Greedy agents share what the others leave.
	agent *abc[] = {alone->agent, neighbour->agent, one->agent};
	together = 1;
	parts(3, abc, (double[]){5, 0.1, 7});
	CHECK(fabs(part - 0.45) < 0.01);
	parts(3, abc, (double[]){5, 5, 7});
	CHECK(fabs(part - 1. / 3) < 0.01);
	parts(2, abc, (double[]){5, 0}); // one that is idle leaves all
	CHECK(fabs(part - 1) < 0.01);
	parts(1, abc, (double[]){5});
	CHECK(part == 0);

	// What waits while the others leave goes on at once.
	parts(2, abc, (double[]){5, 0});
	spend(alone->agent, 3600 * second);
	CHECK(!paced(alone));
	uint64_t then = now() + 2 * recent;
	alone->agent->active = then;
	pthread_mutex_lock(&lock);
	share(then);
	pthread_mutex_unlock(&lock);
	CHECK(resumed() == alone);
	forget(alone);
	shared_at = now();

	// An agent has a modest part, whatever is left.
	together = least;
	parts(2, abc, (double[]){5, 0.1});
	CHECK(part == least && modest == 0.25);
	for (int i = 0; i < 100; i++) {
		spend(neighbour->agent, second / 5000);
		nanosleep(&(struct timespec){0, 1000000}, NULL);
		CHECK(paced(neighbour));
	}
	// Beyond that it waits, and is greedy while much of it waits.
	spend(neighbour->agent, second / 10);
	CHECK(!paced(neighbour));
	share(now());
	CHECK(!neighbour->agent->greedy);
	for (int i = 0; i < much; i++) {
		many[i] = waits("b", a_read);
		CHECK(!paced(many[i]));
	}
	share(now());
	CHECK(neighbour->agent->greedy);
	forget(neighbour);
	for (int i = 0; i < much; i++) forget(many[i]);
	share(now());
	CHECK(neighbour->agent->greedy);
	share(now() + 2 * forgiven);
	CHECK(!neighbour->agent->greedy);

	// What has come of a greedy agent meanwhile does not go on at once.
	parts(2, abc, (double[]){5, 0.1});
	spend(alone->agent, 1);
	spend(neighbour->agent, 1);
	CHECK(alone->agent->due > now() - burst / 2);
	CHECK(neighbour->agent->due < now() - burst / 2);

	// What agents have together becomes less while threads are late, as much as is left, and
	// all again afterwards.
	for (int i = 0; i < 1000; i++) resume(neighbour, neighbour, event_of(a_read, now() - second, true), nothing);
	CHECK(together == least);
	parts(2, abc, (double[]){5, 0});
	CHECK(part == least);
	for (int i = 0; i < 5000; i++) done(neighbour);
	CHECK(together == 1);
	return 0;
}
