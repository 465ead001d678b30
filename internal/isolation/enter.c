//go:build cgo

#define _GNU_SOURCE
#include "enter.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct entered entered;

enum field { PID, IDS, WHY, UIDMAP, GIDMAP, UIDPROGRAM, GIDPROGRAM, SETGROUPS, CARRIED, FIELDS };

#define MOST_NUMBERS 1024 // of a map

extern char **environ;

// take takes the variable out of the environment, of which Go and the programs that it starts see nothing.
static char *take(void) {
	for (char **e = environ; e && *e; e++) {
		if (strncmp(*e, VARIABLE "=", sizeof VARIABLE))
			continue;
		char *value = *e + sizeof VARIABLE;
		for (; *e; e++)
			e[0] = e[1];
		return value;
	}
	return NULL;
}

static int fail(enum step step) {
	entered.step = step;
	entered.error = errno;
	return -1;
}

// put writes a file of a process.
static int put(pid_t pid, const char *name, const char *text) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	int error = errno;
	close(fd);
	errno = error;
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

// map writes a map, of which each third space becomes the end of a line.
static int map(pid_t pid, const char *name, char *text) {
	int spaces = 0;
	for (char *c = text; *c; c++)
		if (*c == ' ' && ++spaces % 3 == 0)
			*c = '\n';
	return put(pid, name, text);
}

// run starts newuidmap or newgidmap.
static pid_t run(char *program, pid_t target, char *numbers, int said) {
	pid_t pid = fork();
	if (pid)
		return pid;
	char process[16], *argv[MOST_NUMBERS + 3] = { program, process };
	snprintf(process, sizeof process, "%d", (int)target);
	int n = 2;
	for (char *word = strtok(numbers, " "); word && n < MOST_NUMBERS + 2; word = strtok(NULL, " "))
		argv[n++] = word;
	dup2(said, 1);
	dup2(said, 2);
	execve(program, argv, environ);
	dprintf(2, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

// programs has newuidmap and newgidmap map the IDs of a process, at the same time.
static int programs(pid_t target, char *fields[]) {
	int said[2], failed[2] = { 1, 1 };
	if (pipe2(said, O_CLOEXEC))
		return fail(PREPARE);
	pid_t pids[2] = { run(fields[UIDPROGRAM], target, fields[UIDMAP], said[1]), run(fields[GIDPROGRAM], target, fields[GIDMAP], said[1]) };
	close(said[1]);
	size_t have = 0;
	char rest[256];
	for (;;) { // to the end, so that nobody waits for a reader
		char *to = entered.said + have;
		size_t room = sizeof entered.said - 1 - have;
		ssize_t n = room ? read(said[0], to, room) : read(said[0], rest, sizeof rest);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += room ? n : 0;
	}
	close(said[0]);
	for (int i = 0; i < 2; i++) {
		int status = -1;
		if (pids[i] > 0)
			while (waitpid(pids[i], &status, 0) < 0 && errno == EINTR)
				;
		failed[i] = status != 0;
	}
	errno = 0;
	if (failed[0] || failed[1])
		return fail(failed[0] ? UIDS : GIDS);
	return 0;
}

static int maps(pid_t target, char *fields[]) {
	if (*fields[UIDPROGRAM])
		return programs(target, fields);
	if (map(target, "uid_map", fields[UIDMAP]))
		return fail(UIDS);
	if (*fields[SETGROUPS] && put(target, "setgroups", fields[SETGROUPS]))
		return fail(GIDS);
	return map(target, "gid_map", fields[GIDMAP]) ? fail(GIDS) : 0;
}

// member is a process in a new user namespace, which has it until it is told that it can go: so who maps the IDs stays outside, and can
// do something else where that fails.
static void member(int ready, int go) {
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int error = unshare(CLONE_NEWUSER) ? errno : 0;
	char byte;
	if (write(ready, &error, sizeof error) == sizeof error && !error)
		while (read(go, &byte, 1) < 0 && errno == EINTR)
			;
	_exit(0);
}

// join has this process enter the namespace of another one.
static int join(pid_t target) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/user", (int)target);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWUSER))
		return fail(JOIN);
	close(fd);
	entered.inside = 1;
	if (setresgid(0, 0, 0) || setresuid(0, 0, 0))
		return fail(BECOME);
	// The kernel takes a process that has become somebody else for one that has secrets: its files in /proc, and those of what it starts
	// until that executes something, would be of who is not here, and no further namespace could be given IDs.
	prctl(PR_SET_DUMPABLE, 1);
	// What is mounted here later is this process's. Of what the host mounts later, it sees what it would see outside.
	return unshare(CLONE_NEWNS) ? fail(MOUNTS) : 0;
}

static void become(char *fields[]) {
	int ready[2], go[2], error = -1;
	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC)) {
		fail(PREPARE);
		return;
	}
	pid_t pid = fork();
	if (pid == 0) {
		close(go[1]);
		member(ready[1], go[0]);
	}
	close(ready[1]);
	close(go[0]);
	ssize_t n = -1;
	if (pid < 0)
		fail(PREPARE);
	else
		while ((n = read(ready[0], &error, sizeof error)) < 0 && errno == EINTR)
			;
	close(ready[0]);
	if (pid > 0) {
		errno = n == sizeof error ? error : ECHILD;
		if (errno)
			fail(NAMESPACE);
		else if (!maps(pid, fields))
			join(pid);
	}
	close(go[1]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

// It runs before Go does, whose threads would be in its way.
__attribute__((constructor)) static void enter(void) {
	char *text = take(), *fields[FIELDS];
	for (int i = 0; i < FIELDS; i++) {
		if (!text)
			return;
		fields[i] = text;
		if ((text = strchr(text, '\n')))
			*text++ = 0;
	}
	if (atoi(fields[PID]) != getpid()) // of another process, from which this one has it by mistake
		return;
	entered.asked = 1;
	entered.uid = getuid();
	entered.gid = getgid();
	entered.ids = fields[IDS];
	entered.why = fields[WHY];
	entered.carried = atoi(fields[CARRIED]);
	if (entered.carried >= 0)
		fcntl(entered.carried, F_SETFD, FD_CLOEXEC);
	prctl(PR_SET_NAME, "slipway"); // it was executed as /proc/self/exe
	become(fields);
}

struct trial { int error, mount; };

static int try(void *arg) {
	struct trial *t = arg;
	// No function of libc, which may be in the middle of something.
	t->mount = 1;
	long error = syscall(SYS_mount, "", "/", "", MS_REC | MS_PRIVATE, "");
	t->error = error ? errno : 0;
	syscall(SYS_exit, 0);
	return 0;
}

int probe(int flags, int *mount) {
	char stack[16 << 10] __attribute__((aligned(16)));
	struct trial t = { 0, 0 };
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	int pid = clone(try, stack + sizeof stack, flags | CLONE_VM | CLONE_VFORK | SIGCHLD, &t);
	int error = errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return *mount = 0, error;
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	*mount = t.mount;
	return t.error;
}
