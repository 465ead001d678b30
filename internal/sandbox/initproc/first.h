// The first process of a container, and how it comes to be: first.c starts it, program.c is what it executes.
#include <stdint.h>

#define SOCKET 3 // its end of the socket

struct start {
	int program;  // what is executed; above SOCKET + 1
	int files[4]; // 0, 1 and 2 of the process, and the socket on which it gets its calls
	int flags;    // new namespaces: CLONE_NEW*
};

// What is sent on the socket.
struct failure { int32_t call, error; };

int first_clone(const struct start *s, int *pidfd);

// The program, and where it begins.
extern const char __start_first_program[], __stop_first_program[], first_entry[];
