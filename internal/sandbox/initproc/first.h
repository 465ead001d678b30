// The first process of a container, and how it comes to be: first.c starts it, program.c is what it executes.
#include <stdint.h>

#define SOCKET 3 // its end of the socket

#define CONTROL 4 // a guardian's end of the socket to slipway
#define LOCK 5    // what a guardian holds open until it ends

struct start {
	int program;  // what is executed; above LOCK
	int files[6]; // 0, 1 and 2 of the process, the socket on which it gets its calls, CONTROL and LOCK
	int count;    // of files: 4, or 6 for a guardian
	int flags;    // new namespaces: CLONE_NEW*
	int scoped;   // a guardian makes a domain for what it guards, which can get no rights by what it executes
};

// What is sent on the socket.
struct failure { int32_t call, error; };

// What a guardian sends: how the first process ended, when all are gone. error is why some may not be.
struct ended { int32_t status, error; };

int first_clone(const struct start *s, int *pidfd);

// The program, and where it begins.
extern const char __start_first_program[], __stop_first_program[], first_entry[];
