//go:build cgo

#define _GNU_SOURCE
#include "first.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// Go raises the soft limit of open files for itself, but not for the programs that it starts.
static struct rlimit files_limit;

// It runs before Go does.
__attribute__((constructor)) static void enter(void) {
	getrlimit(RLIMIT_NOFILE, &files_limit);
#ifdef M_ARENA_MAX
	// Go comes now. Each of its threads would make a heap of its own, of 128 MB of addresses, in three or four
	// system calls, for a piece of 32 bytes.
	mallopt(M_ARENA_MAX, 1);
#endif
}

static void fail(int socket, int error) {
	struct failure f = { -1, error };
	syscall(SYS_write, socket, &f, sizeof f);
	_exit(1);
}

// wait_mapped makes the process root of its user namespace when that has its IDs. It is a copy of slipway until then,
// which may die meanwhile: it has nothing of slipway's open but what it needs, so that it sees the socket's end.
static void wait_mapped(int program) {
	if (syscall(SYS_dup3, program, SOCKET + 1, O_CLOEXEC) < 0)
		fail(SOCKET, errno);
	if (syscall(SYS_close_range, SOCKET + 2, ~0U, 0)) // before Linux 5.9
		for (rlim_t fd = SOCKET + 2; fd < files_limit.rlim_max; fd++)
			syscall(SYS_close, fd);
	char mapped;
	ssize_t n;
	do
		n = syscall(SYS_read, SOCKET, &mapped, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		_exit(1); // nobody is there any more
	// Only this process's IDs change, as libc's functions are not called.
	if (syscall(SYS_setresgid, 0, 0, 0) || syscall(SYS_setresuid, 0, 0, 0))
		fail(SOCKET, errno);
}

// become runs in the new process, which shares its memory with the waiting parent unless it has a new user namespace.
static int become(void *arg) {
	const struct start *s = arg;
	int program = s->program, files[6];
	if (s->flags & CLONE_NEWUSER)
		syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	files[SOCKET] = s->files[SOCKET] >= s->count ? s->files[SOCKET] : fcntl(s->files[SOCKET], F_DUPFD_CLOEXEC, s->count);
	if (files[SOCKET] < 0)
		_exit(1); // there is nobody to be told
	for (int i = 0; i < s->count; i++) // out of the way of those that are made
		if (i != SOCKET && (files[i] = s->files[i] >= s->count ? s->files[i] : fcntl(s->files[i], F_DUPFD_CLOEXEC, s->count)) < 0)
			fail(files[SOCKET], errno);
	for (int i = 0; i < s->count; i++)
		if (dup2(files[i], i) < 0)
			fail(files[SOCKET], errno);
	if (s->flags & CLONE_NEWUSER) {
		wait_mapped(program);
		program = SOCKET + 1;
	} else {
		setrlimit(RLIMIT_NOFILE, &files_limit);
	}
	// Signals stay blocked until the handlers are gone, which are the parent's.
	char *argv[] = { "init", NULL, NULL, NULL, NULL }, *envp[] = { NULL };
	if (s->count > CONTROL) { // the number of arguments tells the program what it is
		argv[1] = "/proc/thread-self/children";
		argv[2] = "guardian";
		argv[3] = s->scoped ? "scoped" : NULL;
	}
	syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
	fail(SOCKET, errno);
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
	if (pid > 0 && s->flags & CLONE_NEWUSER)
		prlimit(pid, RLIMIT_NOFILE, &files_limit, NULL); // here, so that it is not set after one that is wanted
	return pid < 0 ? -error : pid;
}
