// What of Go the hooks need.
#include "../abi.h"

int checkHeaders(stream s, int kind, header *hs, size_t n, buffer rule, uintptr_t agent, bool body);
int putCredential(stream s, header *hs, size_t n, buffer rule);
int refuse(stream s, int kind);
