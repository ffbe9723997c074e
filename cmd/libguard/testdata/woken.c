// Drives pace.c without Envoy, with processors for two waiters at a time. A check that does not
// hold ends the program.
#include "../pace.c"

#include "envoy.h"
#include <sched.h>

static void nothing(waiter *w, void *envoy) {}
static bool paced(waiter *w) { return pace(w, w); }
static void event(waiter *w, bool end) { resume(w, w, event_of(w->kind, now(), end), nothing); }

int main(void) {
	setenv("POSTERN_PROCESSORS", "4", 1);
	agent *greedy = find_agent((buffer){"a", 1}), *other = find_agent((buffer){"b", 1});
	waiter one = {.agent = greedy, .kind = a_read}, b = {.agent = other, .kind = a_read};
	CHECK(paced(&one) && paced(&b));
	spend(greedy, UINT64_C(10000000000));
	CHECK(!paced(&one));

	// More comes after it was woken, before its thread knows: it does not wait a second time.
	greedy->due = 0;
	pthread_cond_signal(&changed);
	CHECK(resumed() == &one);
	spend(greedy, UINT64_C(10000000000));
	CHECK(!paced(&one));
	CHECK(!one.scheduler && passing == 1);

	// More comes after that, before what it waited for has ended: it waits again, and counts once.
	event(&one, false);
	CHECK(!paced(&one));
	CHECK(one.scheduler);
	greedy->due = 0;
	pthread_cond_signal(&changed);
	CHECK(resumed() == &one);
	CHECK(passing == 1);
	event(&one, true);
	event(&one, false);
	event(&one, true);
	CHECK(passing == 0);
	forget(&one);
	forget(&b);
	CHECK(passing == 0);
	while (alive()) sched_yield();
	return 0;
}
