//go:build cgo

#define _GNU_SOURCE
#include "first.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SOCKET 3
#define VARIABLE "_SLIPWAY_FIRST"
#define WATCHDOG "_SLIPWAY_WATCHDOG"

// Go raises the soft limit of open files for itself, but not for the programs that it starts.
static struct rlimit files_limit;

// One call of the list. Go's side is in calls.go.
struct call {
	int64_t number, args[6];
	int32_t forgiven[6]; // errors after which the list goes on
	int32_t when, result; // made only if call number when returned result; -1: always
	uint8_t kinds[8]; // of args
};
enum kind { VALUE, PLACE /* in the message */, RESULT /* of the call with this number */ };

struct head {
	uint64_t size; // of the whole message
	uint32_t calls, pointers;
};

struct failure { int32_t call, error; };

static void fail(int call, int error) {
	struct failure f = { call, error };
	syscall(SYS_write, SOCKET, &f, sizeof f);
	_exit(1);
}

static int read_all(char *to, size_t size) {
	while (size > 0) {
		ssize_t n = read(SOCKET, to, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		to += n;
		size -= n;
	}
	return 0;
}

// close_others closes what slipway was started with: a directory of the host would be a way out.
static void close_others(void) {
	if (syscall(SYS_close_range, SOCKET + 1, ~0U, 0) == 0)
		return;
	struct rlimit limit = { 0 };
	getrlimit(RLIMIT_NOFILE, &limit); // before Linux 5.9
	for (rlim_t fd = SOCKET + 1; fd < limit.rlim_max; fd++)
		close(fd);
}

// first makes the calls that it is sent, the last of which executes the container's program.
static void first(void) {
	prctl(PR_SET_PDEATHSIG, SIGKILL); // if the parent is dead already, nothing comes
	fcntl(SOCKET, F_SETFD, FD_CLOEXEC);
	close_others();
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	struct head head;
	if (read_all((char *)&head, sizeof head))
		_exit(1);
	char *m = mmap(NULL, head.size + head.calls * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED || read_all(m + sizeof head, head.size - sizeof head))
		_exit(1);
	struct call *calls = (struct call *)(m + sizeof head);
	uint64_t *pointers = (uint64_t *)(calls + head.calls);
	int64_t *results = (int64_t *)(m + head.size);
	for (uint32_t i = 0; i < head.pointers; i++)
		*(uint64_t *)(m + pointers[i]) += (uint64_t)m;
	for (uint32_t i = 0; i < head.calls; i++) {
		struct call *c = &calls[i];
		if (c->when >= 0 && results[c->when] != c->result)
			continue;
		for (int k = 0; k < 6; k++) {
			if (c->kinds[k] == PLACE)
				c->args[k] += (int64_t)m;
			else if (c->kinds[k] == RESULT)
				c->args[k] = results[c->args[k]];
		}
		results[i] = syscall(c->number, c->args[0], c->args[1], c->args[2], c->args[3], c->args[4], c->args[5]);
		if (results[i] != -1)
			continue;
		int error = errno, forgiven = 0;
		for (int k = 0; k < 6; k++)
			forgiven |= c->forgiven[k] == error;
		if (!forgiven)
			fail(i, error);
		results[i] = -error;
	}
	fail(head.calls - 1, ECANCELED); // nothing was executed
}

// watchdog takes processes until the socket is closed, and kills them then.
static void watchdog(void) {
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
	for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
		signal(ignored[i], SIG_IGN);
	int *watched = NULL;
	size_t count = 0;
	for (;;) {
		char byte;
		union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
		struct iovec iov = { &byte, 1 };
		struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
		ssize_t n = recvmsg(SOCKET, &message, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		size_t living = 0; // those that have ended need no watching
		for (size_t i = 0; i < count; i++) {
			if (syscall(SYS_pidfd_send_signal, watched[i], 0, NULL, 0) && errno == ESRCH)
				close(watched[i]);
			else
				watched[living++] = watched[i];
		}
		count = living;
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		if (!c || c->cmsg_type != SCM_RIGHTS)
			continue;
		int *more = realloc(watched, (count + 1) * sizeof *watched);
		if (!more)
			break; // what cannot be watched is not to run
		watched = more;
		watched[count++] = *(int *)CMSG_DATA(c);
	}
	for (size_t i = 0; i < count; i++)
		syscall(SYS_pidfd_send_signal, watched[i], SIGKILL, NULL, 0);
	_exit(0);
}

// It runs before Go does, and before main.
__attribute__((constructor)) static void enter(void) {
	getrlimit(RLIMIT_NOFILE, &files_limit);
	if (getenv(VARIABLE))
		first();
	if (getenv(WATCHDOG))
		watchdog();
#ifdef M_ARENA_MAX
	// Go comes now. Each of its threads would make a heap of its own, of 128 MB of addresses, in three or four
	// system calls, for a piece of 32 bytes.
	mallopt(M_ARENA_MAX, 1);
#endif
}

// become runs in the new process, which shares its memory with the waiting parent unless it has a new user namespace.
static int become(void *arg) {
	const struct start *s = arg;
	int files[4];
	for (int i = 0; i < 4; i++) // out of the way of those that are made
		files[i] = s->files[i] > SOCKET ? s->files[i] : fcntl(s->files[i], F_DUPFD_CLOEXEC, SOCKET + 1);
	int program = s->program > SOCKET ? s->program : fcntl(s->program, F_DUPFD_CLOEXEC, SOCKET + 1);
	for (int i = 0; i < 4; i++)
		dup2(files[i], i); // an error is seen by who uses it
	char mapped;
	if (s->flags & CLONE_NEWUSER) // only this process's IDs change, as libc's functions are not called
		if (read_all(&mapped, 1) || syscall(SYS_setresgid, 0, 0, 0) || syscall(SYS_setresuid, 0, 0, 0))
			fail(-1, errno);
	setrlimit(RLIMIT_NOFILE, &files_limit);
	// Signals stay blocked until the handlers are gone, which are the parent's.
	char *argv[] = { "init", NULL }, *envp[] = { VARIABLE "=1", NULL };
	syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
	fail(-1, errno);
	return 0;
}

// first_clone starts a first process and returns its ID, or an error as a negative number. It returns when the program
// has been executed; with a user namespace at once: the process then waits for one byte, which says that IDs are mapped.
int first_clone(const struct start *s, int *pidfd) {
	char stack[32 << 10] __attribute__((aligned(16)));
	int flags = s->flags | CLONE_PIDFD | SIGCHLD;
	if (!(s->flags & CLONE_NEWUSER))
		flags |= CLONE_VM | CLONE_VFORK;
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	int pid = clone(become, stack + sizeof stack, flags, (void *)s, pidfd);
	int error = errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -error : pid;
}
