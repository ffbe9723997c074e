// Pacing: agents that ask for more than their part of a node wait, others do not.
#pragma once

#include "abi.h"

typedef struct agent agent;

// find_agent returns what is kept of the agent with that name, the same for all
// listeners; NULL if there is no memory.
agent *find_agent(buffer name);

// A waiter is a request of an agent, or a connection from which is to be read.
enum { a_request, a_read };
typedef struct waiter {
	agent *agent;
	int kind;
	// scheduler is set while the waiter is in its agent's queue for the kind.
	void *scheduler;
	// passing is set while a connection that has waited is being read from.
	bool passing;
	uint64_t cost;
	struct waiter *before, *after;
} waiter;

// Costs are in nanoseconds of a processor, about (docs/performance.md). each_read is the
// cost of a read and of the one request that most reads bring.
enum { each_read = 200000 };

// charge takes a cost from what the agent may have.
void charge(agent *a, uint64_t cost);

// pace charges the cost of a request or a read, and returns whether it may go on now. If
// not, Envoy, which knows the waiter as envoy, calls the hook "scheduled" on its thread
// when it may. The waiter must be forgotten before its memory is freed.
bool pace(waiter *w, void *envoy, uint64_t cost);

// passed ends a read that has waited: the thread has done what the read led to.
void passed(waiter *w);

// forget ends the wait of a waiter, and its read.
void forget(waiter *w);
