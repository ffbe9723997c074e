// In the place of pace.c: nothing waits, and nothing is measured (tests/neighbour).
#include "pace.h"

struct agent {
	_Atomic int64_t holds;
};

agent *find_agent(buffer name) {
	static agent everybody;
	return &everybody;
}
_Atomic int64_t *held_by(agent *a) { return &a->holds; }
void works(agent *a) {}
void spend(agent *a, uint64_t time) {}
bool pace(waiter *w, void *envoy) { return true; }
void resume(waiter *w, void *envoy, uint64_t event, void (*go_on)(waiter *w, void *envoy)) {}
void forget(waiter *w) {}
