// Pacing: agents that use more of a node than others wait, others do not.
#pragma once

#include <stdatomic.h>

#include "abi.h"

typedef struct agent agent;

// find_agent returns what is kept of the agent with that name, the same for all
// listeners; NULL if there is no memory.
agent *find_agent(buffer name);

// held_by returns how much memory what the agent has open can take, in bytes: see hooks.c.
_Atomic int64_t *held_by(agent *a);

// A waiter is a request of an agent, the body of an answer to one, or a connection from
// which is to be read.
enum { a_request, an_answer, a_read };
typedef struct waiter {
	agent *agent;
	int kind;
	// scheduler is set while the waiter is in its agent's queue for the kind.
	void *_Atomic scheduler;
	// woken is set from when the waiter has left the queue until its thread knows.
	_Atomic bool woken;
	// passing is set while a waiter that has waited does what it waited for.
	bool passing;
	struct waiter *before, *after;
} waiter;

// works says that the thread works for the agent from now on. What it uses of a processor
// counts for the agent, until the thread works for another one.
void works(agent *a);

// spend counts time of a processor, in nanoseconds, for the agent.
void spend(agent *a, uint64_t time);

// pace returns whether a request or a read may go on now. If not, Envoy, which knows the
// waiter as envoy, calls the hook "scheduled" on its thread when it may. The waiter must
// be forgotten before its memory is freed.
bool pace(waiter *w, void *envoy);

// An event is a time, in nanoseconds and shifted by two bits, and what it is: the end of what
// a waiter has waited for, an answer's.
enum { of_end = 1, of_answer = 2 };

// resume is what the hook does with an event: it calls go_on if the waiter has waited.
// The waiter may be freed in that.
void resume(waiter *w, void *envoy, uint64_t event, void (*go_on)(waiter *w, void *envoy));

// forget ends the wait of a waiter, and what it has waited for.
void forget(waiter *w);
