// The first process of a container, and how it comes to be: see first.c.
#include <stdint.h>

struct start {
	int program;  // what is executed, which has first.c in it
	int files[4]; // 0, 1 and 2 of the process, and the socket on which it gets its calls
	int flags;    // new namespaces: CLONE_NEW*
};

int first_clone(const struct start *s, int *pidfd);
