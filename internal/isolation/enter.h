// How this process enters a user namespace before Go's threads are there: enter.c does, enter.go says how and reads what came of it.

// What failed.
enum step { DONE, PREPARE, NAMESPACE, UIDS, GIDS, JOIN, BECOME, MOUNTS };

struct entered {
	int asked;        // by a process that this one was, with VARIABLE
	enum step step;   // DONE, or what failed
	int error;        // errno; for UIDS and GIDS with a program, 0
	int inside;       // in the namespace, also where something failed after that
	unsigned uid, gid; // who this process was
	const char *ids, *why; // as they were given
	int carried;      // a file with what it told itself; -1 is none
	char said[512];   // what programs said that failed
};

#define VARIABLE "_SLIPWAY_ENTER"

extern struct entered entered;

// probe makes namespaces (CLONE_NEW*) for a process that ends at once and changes a mount there. It returns 0 or an error's number,
// and in mount whether that was about the mount.
int probe(int flags, int *mount);
