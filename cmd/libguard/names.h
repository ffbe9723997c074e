// The names that the hooks share with package guard. TestNamesOfHooks holds both to the same.
#pragma once

#define FILTER "guard"
#define FILTER_PUT "put"
#define LEASE_PATH "lease"
#define FULL "guard_full"
#define UNRECORDED "guard_unrecorded"
#define NAMESPACE "postern"
#define KEY "guard"
