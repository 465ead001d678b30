package isolation

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// Facts are what this process may do, and what there is for it.
type Facts struct {
	UID, GID   int
	Caps       uint64 // effective
	InUserNS   bool   // in a user namespace that somebody has made
	NoNewPrivs bool
	Container  string // "docker", "kubernetes", "podman", or "container" for others; "" is none that is seen
	Program    string // path of this program

	MountNS error // why root cannot mount in a namespace of its own
	UserNS  error // why no user namespace can be made
	Mounts  error // why nothing can be mounted in one

	MaxUserNS      int64 // user.max_user_namespaces; -1 is unknown
	OldSysctl      bool  // Debian's sysctl that forbids user namespaces to users does
	AppArmorSysctl bool  // Ubuntu's sysctl that forbids them to programs without a profile does

	User                 string       // its name, or number
	SubUIDs, SubGIDs     []user.SubID // subordinate IDs
	NewUIDMap, NewGIDMap string       // paths of the programs that map them; "" is none
	OwnUIDs, OwnGIDs     []user.IDMap // what this process's namespace has, as Identity wants it

	RootDir      error  // why nothing can be made in /
	OverlayStore string // the store's directory where that is on an overlay, on which no other one can be mounted
	Room         int64  // see the function, where it is
	Made         Mode   // with which rights that store was made: Root, or UserNS for all others; "" is unknown, or it is not there

	least int64 // bytes of that without which steps are not to be isolated

	Failed *Entry // how entering has failed already
}

func (f *Facts) cap(n int) bool { return f.Caps&(1<<n) != 0 }

// Find looks at what there is for this process, whose store is in a directory; made is [Facts.Made] of it. Where it is clear that this process is root and that this will
// do, it looks no further.
func Find(wanted Mode, store string, made func(store string) Mode) *Facts {
	f := &Facts{UID: os.Geteuid(), GID: os.Getegid(), InUserNS: userns.RunningInUserNS(), MaxUserNS: -1}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if unix.Capget(&head, &caps[0]) == nil {
		f.Caps = uint64(caps[1].Effective)<<32 | uint64(caps[0].Effective)
	}
	f.Container = Container()
	if f.UID == 0 && f.cap(unix.CAP_SYS_ADMIN) && (wanted == Auto || wanted == Root) {
		if f.Container == "" {
			return f
		}
		made, mounts := tryNamespaces(unix.CLONE_NEWNS)
		f.MountNS = errors.Join(made, mounts)
	}
	if f.Container != "" && onOverlay(store) {
		f.OverlayStore, f.Room, f.Made = store, Room(), made(store)
	}
	if needsForRoot(f) == nil && (wanted == Auto || wanted == Root) {
		return f
	}
	f.more()
	if e := Entered(); e != nil && e.Err != nil {
		f.Failed = e
	}
	return f
}

// more looks at what matters without root.
func (f *Facts) more() {
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	f.NoNewPrivs = err == nil && nnp == 1
	f.UserNS, f.Mounts = tryNamespaces(unix.CLONE_NEWUSER | unix.CLONE_NEWNS)
	if n, ok := sysctl("user/max_user_namespaces"); ok {
		f.MaxUserNS = n
	}
	n, ok := sysctl("kernel/unprivileged_userns_clone")
	f.OldSysctl = ok && n == 0
	n, ok = sysctl("kernel/apparmor_restrict_unprivileged_userns")
	f.AppArmorSysctl = ok && n != 0
	if f.Program, err = os.Executable(); err != nil {
		f.Program = "/usr/local/bin/slipway"
	}
	f.RootDir = unix.Faccessat(unix.AT_FDCWD, "/", unix.W_OK, unix.AT_EACCESS)
	if f.UID == 0 {
		f.OwnUIDs, _ = user.ParseIDMapFile("/proc/self/uid_map") // without it nothing can be mapped, which shows
		f.OwnGIDs, _ = user.ParseIDMapFile("/proc/self/gid_map")
		return
	}
	f.User = strconv.Itoa(f.UID)
	name := f.User
	if u, err := user.LookupUid(f.UID); err == nil {
		name = u.Name
		f.User = u.Name
	}
	f.SubUIDs, f.SubGIDs = subordinate("/etc/subuid", name, f.UID, nil), subordinate("/etc/subgid", name, f.UID, []string{"-g"})
	f.NewUIDMap, f.NewGIDMap = lookPath("newuidmap"), lookPath("newgidmap")
}

// subordinate are the IDs that are subordinate to a user: those of a file, and where there are none, those that newuidmap knows from elsewhere,
// as nsswitch.conf says. The program getsubids beside it tells them, with these flags.
func subordinate(file, name string, uid int, flags []string) []user.SubID {
	mine := func(s user.SubID) bool { return s.Count > 0 && (s.Name == name || s.Name == strconv.Itoa(uid)) }
	ids, _ := user.ParseSubIDFileFilter(file, mine) // a file that is not there has none
	program := lookPath("getsubids")
	if len(ids) > 0 || program == "" {
		return ids
	}
	out, _ := exec.Command(program, append(flags, name)...).Output() // it fails where there are none
	for line := range strings.Lines(string(out)) {
		if s, ok := subIDLine(line); ok {
			ids = append(ids, s)
		}
	}
	return ids
}

// subIDLine reads a line of getsubids: "0: ann 100000 65536".
func subIDLine(line string) (s user.SubID, ok bool) {
	var n int
	if _, err := fmt.Sscanf(line, "%d: %s %d %d\n", &n, &s.Name, &s.SubID, &s.Count); err != nil {
		return s, false
	}
	return s, s.SubID > 0 && s.Count > 0
}

// onOverlay reports whether a directory is, or would be, on overlayfs, as the root of a container is.
func onOverlay(dir string) bool {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil || !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			return err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
		}
		dir = filepath.Dir(dir)
	}
}

// lookPath finds a program in PATH, or where distributions have it.
func lookPath(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if path, err := exec.LookPath("/usr/bin/" + name); err == nil {
		return path
	}
	return ""
}

// sysctl reads a setting of the kernel's.
func sysctl(name string) (int64, bool) {
	data, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil
}

// firstPIDs is the number of the machine's own namespace of processes (PROC_PID_INIT_INO).
const firstPIDs = "pid:[4026531836]"

// Container says in what kind of container this process is, see [Facts]. Who sets the variable "container" says that it is in one.
func Container() string {
	exists := func(path string) bool { return unix.Access(path, unix.F_OK) == nil }
	switch {
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "" || exists("/var/run/secrets/kubernetes.io"):
		return "kubernetes"
	case exists("/.dockerenv"):
		return "docker"
	case exists("/run/.containerenv"):
		return "podman"
	case os.Getenv("container") != "":
		return "container"
	}
	if pids, err := os.Readlink("/proc/self/ns/pid"); err == nil && pids != firstPIDs {
		return "container"
	}
	return ""
}

// User is who this process was, before it became root of a user namespace.
func User() (uid int) {
	if e := Entered(); e != nil {
		return e.UID
	}
	uid = os.Geteuid()
	// Root of a namespace that somebody else has made for a user, as unshare does: the machine's / is not its own. In a container it is.
	var st unix.Stat_t
	if uid == 0 && userns.RunningInUserNS() && unix.Stat("/", &st) == nil && st.Uid != 0 {
		if maps, err := user.ParseIDMapFile("/proc/self/uid_map"); err == nil {
			for _, m := range maps {
				if m.ID == 0 && m.ParentID > 0 {
					return int(m.ParentID)
				}
			}
		}
		return int(st.Uid)
	}
	return uid
}

// maps are the IDs of a namespace that is to be entered.
type maps struct {
	uids, gids             string // numbers of uid_map and gid_map, with spaces between them
	uidProgram, gidProgram string // that write them; "" for this program
	setgroups              string // what /proc/PID/setgroups is to be; "" is what it is
}

// mapText is a map as text.
func mapText(all []user.IDMap) string {
	var words []string
	for _, m := range all {
		words = append(words, strconv.FormatInt(m.ID, 10), strconv.FormatInt(m.ParentID, 10), strconv.FormatInt(m.Count, 10))
	}
	return strings.Join(words, " ")
}

// maps are those of a way.
func (w *way) maps(f *Facts) maps {
	switch {
	case w.mode != UserNS:
		return maps{}
	case w.ids == Subordinate:
		return maps{uids: mapText(after(f.UID, f.SubUIDs)), gids: mapText(after(f.GID, f.SubGIDs)), uidProgram: f.NewUIDMap, gidProgram: f.NewGIDMap}
	case w.ids == Identity:
		return maps{uids: mapText(same(f.OwnUIDs, f.cap(unix.CAP_SETFCAP))), gids: mapText(same(f.OwnGIDs, true))}
	}
	one := func(id int) string { return mapText([]user.IDMap{{ID: 0, ParentID: int64(id), Count: 1}}) }
	m := maps{uids: one(f.UID), gids: one(f.GID)}
	if !f.cap(unix.CAP_SETGID) {
		m.setgroups = "deny"
	}
	return m
}

// after is a map of a user's own ID to 0, and of subordinate ones behind it.
func after(id int, sub []user.SubID) []user.IDMap {
	all := []user.IDMap{{ID: 0, ParentID: int64(id), Count: 1}}
	next := int64(1)
	for _, s := range sub {
		all = append(all, user.IDMap{ID: next, ParentID: s.SubID, Count: s.Count})
		next += s.Count
	}
	return all
}

// same is a map of all IDs that there are to themselves. A map with the 0 of outside needs CAP_SETFCAP since Linux 5.12; without it, all others
// begin at 0. It is never that of the first user namespace, by which programs know that they are in no other one.
func same(own []user.IDMap, withRoot bool) (all []user.IDMap) {
	next := int64(0)
	for _, m := range own {
		m.ParentID = m.ID
		if !withRoot {
			if m.ParentID == 0 {
				m.ParentID, m.Count = 1, m.Count-1
			}
			m.ID = next
			next += m.Count
		}
		if m.Count > 0 {
			all = append(all, m)
		}
	}
	if len(all) == 1 && all[0].ID == 0 && all[0].Count == math.MaxUint32 {
		all = []user.IDMap{{ID: 0, ParentID: all[0].ParentID, Count: 1}, {ID: 1, ParentID: all[0].ParentID + 1, Count: math.MaxUint32 - 1}}
	}
	return all
}

// allIDs is how many IDs a namespace has that lacks nothing of what images use: to nobody, 65534.
const allIDs = 65535

// whole reports whether a map has all of these.
func whole(all []user.IDMap) bool {
	next := int64(0)
	for again := true; again; {
		again = false
		for _, m := range all {
			if m.ID <= next && m.ID+m.Count > next {
				next, again = m.ID+m.Count, true
			}
		}
	}
	return next >= allIDs
}

// Fidelity says in what results of steps may differ from those that root's have; "" is in nothing. It is part of their keys.
func (c *Choice) Fidelity() string {
	if c.Mode == None {
		return "in place"
	}
	if !c.Nested {
		return ""
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		if ids, err := user.ParseIDMapFile("/proc/self/" + file); err == nil && !whole(ids) {
			return "owners recorded"
		}
	}
	return ""
}
