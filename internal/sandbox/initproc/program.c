//go:build cgo

// The program of the first process of a container, and of the watchdog. It is all in one section of slipway, from which
// program.go makes a file. So it has no library, no constants that the compiler would put elsewhere (as strings are), and
// nothing to be relocated.
#define _GNU_SOURCE
#if defined __GNUC__ && !defined __clang__
#pragma GCC optimize("no-tree-vectorize", "no-tree-slp-vectorize", "no-tree-loop-distribute-patterns", "no-jump-tables")
#pragma GCC target("general-regs-only") // vectors are made of constants
#endif
#include "first.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define IN_PROGRAM __attribute__((section("first_program"), noinline, used))
#define INLINE static inline __attribute__((always_inline))

// It begins here: with the number of arguments on the stack.
#if defined __x86_64__
__asm__(".pushsection first_program,\"ax\",@progbits\n"
	".globl first_entry\n.hidden first_entry\n.type first_entry,@function\n"
	"first_entry:\n\txor %ebp,%ebp\n\tmov %rsp,%rdi\n\tand $-16,%rsp\n\tcall first_main\n\thlt\n"
	".popsection");

// raw_call returns an error as a negative number.
INLINE long raw_call(long number, long a, long b, long c, long d, long e, long f) {
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}
#elif defined __aarch64__
__asm__(".pushsection first_program,\"ax\",@progbits\n.balign 16\n"
	".globl first_entry\n.hidden first_entry\n.type first_entry,@function\n"
	"first_entry:\n\tmov x29,#0\n\tmov x30,#0\n\tmov x0,sp\n\tbl first_main\n\tbrk #0\n"
	".popsection");

INLINE long raw_call(long number, long a, long b, long c, long d, long e, long f) {
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#else
#error "how a system call is made on this machine is not known here"
#endif

#define CALL_OF(number, a, b, c, d, e, ...) raw_call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define CALL(number, ...) CALL_OF(number, ##__VA_ARGS__, 0, 0, 0, 0, 0)

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

INLINE int failed(long result) { return result < 0 && result >= -4095; }

INLINE void end(int code) {
	for (;;)
		CALL(SYS_exit_group, code);
}

INLINE void fail(int call, long error) {
	struct failure f;
	f.call = call;
	f.error = error;
	CALL(SYS_write, SOCKET, &f, sizeof f);
	end(1);
}

// receive reads so much from the socket, or fails.
IN_PROGRAM static void receive(char *to, size_t size) {
	while (size > 0) {
		long n = CALL(SYS_read, SOCKET, to, size);
		if (n == -EINTR)
			continue;
		if (n <= 0)
			fail(-1, n ? -n : EPIPE);
		to += n;
		size -= n;
	}
}

// close_others closes what slipway was started with: a directory of the host would be a way out.
IN_PROGRAM static void close_others(void) {
	if (CALL(SYS_close_range, SOCKET + 1, ~0U, 0) == 0)
		return;
	struct rlimit limit; // before Linux 5.9
	if (CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit))
		fail(-1, EMFILE);
	for (rlim_t fd = SOCKET + 1; fd < limit.rlim_max; fd++)
		CALL(SYS_close, fd);
}

// first makes the calls that it is sent, the last of which executes the container's program.
IN_PROGRAM static void first(void) {
	CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL); // if the parent is dead already, nothing comes
	CALL(SYS_fcntl, SOCKET, F_SETFD, FD_CLOEXEC);
	close_others();
	uint64_t none = 0;
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
	struct head head;
	receive((char *)&head, sizeof head);
	char *m = (char *)raw_call(SYS_mmap, 0, head.size + head.calls * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (failed((long)m))
		fail(-1, -(long)m);
	receive(m + sizeof head, head.size - sizeof head);
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
		results[i] = raw_call(c->number, c->args[0], c->args[1], c->args[2], c->args[3], c->args[4], c->args[5]);
		if (!failed(results[i]))
			continue;
		int forgiven = 0;
		for (int k = 0; k < 6; k++)
			forgiven |= c->forgiven[k] == -results[i];
		if (!forgiven)
			fail(i, -results[i]);
	}
	fail(head.calls - 1, ECANCELED); // nothing was executed
}

struct action { // of a signal, as the kernel has it
	uint64_t handler, flags, restorer, mask;
};

IN_PROGRAM static void ignore(int signal) {
	struct action a;
	a.handler = 1; // SIG_IGN
	a.flags = a.restorer = a.mask = 0;
	CALL(SYS_rt_sigaction, signal, &a, 0, sizeof a.mask);
}

// living forgets those that have ended, which need no watching, and returns how many are left.
IN_PROGRAM static size_t living(int *watched, size_t count) {
	size_t left = 0;
	for (size_t i = 0; i < count; i++) {
		if (CALL(SYS_pidfd_send_signal, watched[i], 0, 0, 0) == -ESRCH)
			CALL(SYS_close, watched[i]);
		else
			watched[left++] = watched[i];
	}
	return left;
}

// watchdog takes processes until the socket is closed, and kills them then.
IN_PROGRAM static void watchdog(void) {
	ignore(SIGHUP);
	ignore(SIGINT);
	ignore(SIGQUIT);
	ignore(SIGTERM);
	struct rlimit limit;
	if (CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max; // there may be many containers
		CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, 0);
	}
	size_t room = 4096, count = 0;
	int code = 127; // who executes it without a socket is to see it
	int *watched = (int *)raw_call(SYS_mmap, 0, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	while (!failed((long)watched)) {
		char byte;
		union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
		struct iovec iov;
		iov.iov_base = &byte;
		iov.iov_len = 1;
		struct msghdr message;
		message.msg_name = NULL;
		message.msg_namelen = message.msg_flags = 0;
		message.msg_iov = &iov;
		message.msg_iovlen = 1;
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
		long n = CALL(SYS_recvmsg, SOCKET, &message, MSG_CMSG_CLOEXEC);
		if (n == -EINTR)
			continue;
		if (n == 0)
			code = 0;
		if (n <= 0 || message.msg_flags & MSG_CTRUNC)
			break; // what cannot be watched is not to run
		count = living(watched, count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		if (!c || c->cmsg_type != SCM_RIGHTS)
			continue;
		watched[count++] = *(int *)CMSG_DATA(c);
		if (count * sizeof *watched < room)
			continue;
		long more = CALL(SYS_mremap, watched, room, 2 * room, MREMAP_MAYMOVE);
		if (failed(more))
			break;
		watched = (int *)more;
		room *= 2;
	}
	for (size_t i = 0; i < count; i++)
		CALL(SYS_pidfd_send_signal, watched[i], SIGKILL, 0, 0);
	end(code);
}

INLINE void unignore(void) {
	struct action a;
	a.handler = a.flags = a.restorer = a.mask = 0;
	CALL(SYS_rt_sigaction, SIGCHLD, &a, 0, sizeof a.mask);
}

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

// scope makes a Landlock domain whose processes can neither signal nor trace those outside of it, and connect to no abstract
// socket of theirs, and reports whether that is so: kernels have claimed what they do not do.
IN_PROGRAM static int scope(void) {
	uint64_t ruleset[3];
	ruleset[0] = ruleset[1] = 0; // files and ports are as they are
	ruleset[2] = 3; // abstract sockets and signals
	if (CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1))
		return 0;
	long fd = CALL(SYS_landlock_create_ruleset, ruleset, sizeof ruleset, 0);
	if (failed(fd))
		return 0;
	long error = CALL(SYS_landlock_restrict_self, fd, 0);
	CALL(SYS_close, fd);
	long parent = CALL(SYS_getppid);
	return !error && CALL(SYS_kill, parent, 0) == -EPERM;
}

// kill_children kills the children that there are, whose own become this process's then.
IN_PROGRAM static long kill_children(const char *path) {
	char text[4096];
	long fd = CALL(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC), n, pid = 0;
	if (failed(fd))
		return fd;
	while ((n = CALL(SYS_read, fd, text, sizeof text)) > 0) {
		for (long i = 0; i < n; i++) {
			if (text[i] >= '0' && text[i] <= '9') {
				pid = pid * 10 + text[i] - '0';
				continue;
			}
			if (pid > 0)
				CALL(SYS_kill, pid, SIGKILL);
			pid = 0;
		}
	}
	CALL(SYS_close, fd);
	return 0;
}

// kill_all returns when no process is left below this one. In a domain of its own one call reaches all, in a way that none
// can be born meanwhile.
IN_PROGRAM static long kill_all(int scoped, const char *children, int first, int32_t *status) {
	for (;;) {
		long error = 0;
		if (scoped)
			CALL(SYS_kill, -1, SIGKILL);
		else
			error = kill_children(children);
		int32_t ws;
		long pid = CALL(SYS_wait4, -1, &ws, error ? 1 /* WNOHANG */ : 0, 0);
		if (pid == first)
			*status = ws;
		if (pid == -ECHILD)
			return 0;
		if (error && pid <= 0)
			return error;
	}
}

// guardian starts a first process, stays above all that it starts, and ends when none of them is left: when the first has
// ended, or slipway, or when slipway closes the socket. Signals for the first process come through the socket.
IN_PROGRAM static void guardian(int scoped, const char *children) {
	if (failed(CALL(SYS_fcntl, CONTROL, F_SETFD, FD_CLOEXEC)))
		end(127); // who executes it without a socket is to see it
	if (CALL(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1))
		fail(-1, EPERM);
	CALL(SYS_prctl, PR_SET_DUMPABLE, 0); // nobody but who may trace everything looks into it
	CALL(SYS_fcntl, LOCK, F_SETFD, FD_CLOEXEC);
	scoped = scoped && scope();
	uint64_t mask = 1ULL << (SIGCHLD - 1);
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
	unignore();
	long signals = CALL(SYS_signalfd4, -1, &mask, sizeof mask, O_CLOEXEC | O_NONBLOCK);
	if (failed(signals))
		fail(-1, -signals);
	long child = CALL(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (child == 0) {
		if (scoped)
			scope(); // below the guardian's: its processes cannot end that either
		first();
	}
	if (failed(child))
		fail(-1, -child);
	ignore(SIGHUP);
	ignore(SIGINT);
	ignore(SIGQUIT);
	ignore(SIGTERM);
	for (int fd = 0; fd <= SOCKET; fd++)
		CALL(SYS_close, fd);
	int32_t sent = child;
	CALL(SYS_write, CONTROL, &sent, sizeof sent);
	struct ended e;
	e.status = SIGKILL;
	for (int over = 0; !over;) {
		struct { int fd; short events, revents; } polled[2];
		polled[0].fd = CONTROL;
		polled[1].fd = signals;
		polled[0].events = polled[1].events = 1; // POLLIN
		polled[0].revents = polled[1].revents = 0;
		CALL(SYS_ppoll, polled, 2, 0, 0, 0);
		uint64_t info[16]; // struct signalfd_siginfo
		while (CALL(SYS_read, signals, info, sizeof info) > 0)
			;
		int32_t ws;
		for (long pid; (pid = CALL(SYS_wait4, -1, &ws, 1 /* WNOHANG */, 0)) > 0;) {
			if (pid != child)
				continue;
			e.status = ws;
			over = 1;
		}
		if (over || !polled[0].revents)
			continue;
		int32_t signal;
		long n = CALL(SYS_read, CONTROL, &signal, sizeof signal);
		if (n == sizeof signal)
			CALL(SYS_kill, child, signal);
		else if (n != -EINTR)
			over = 1;
	}
	e.error = -kill_all(scoped, children, child, &e.status);
	ignore(SIGPIPE); // slipway may be dead
	CALL(SYS_write, CONTROL, &e, sizeof e);
	end(0);
}

// first_main is one or the other by the number of its arguments. A process of a container that executes it by
// /proc/self/exe can do no more by it than by itself.
IN_PROGRAM __attribute__((visibility("hidden"))) void first_main(const long *stack) {
	if (stack[0] == 1)
		first();
	if (stack[0] == 2)
		watchdog();
	if (stack[0] == 3 || stack[0] == 4)
		guardian(stack[0] == 4, (const char *)stack[2]);
	end(127);
}
