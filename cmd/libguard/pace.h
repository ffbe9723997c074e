// Pacing: agents that ask for more than their part of a node wait, others do not.
#pragma once

#include "abi.h"

typedef struct agent agent;

// find_agent returns what is kept of the agent with that name, the same for all
// listeners; NULL if there is no memory.
agent *find_agent(buffer name);

// pace returns whether a request may go on now. If not, the hook "scheduled" is called
// on the request's thread when it may.
bool pace(agent *a, stream s, uint64_t cost);
