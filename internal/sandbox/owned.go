package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/user"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"github.com/slipway-build/slipway/internal/sandbox/owners"
	"golang.org/x/sys/unix"
)

// In a user namespace with one ID a container has that ID too, whoever it is for itself: root, or the user of a step, for whom it has a namespace of
// its own in which the one ID is his. What its processes say of owners is recorded (package owners).

// oneID reports whether this process's user namespace has one ID only.
var oneID = sync.OnceValue(func() bool {
	if !nested() {
		return false
	}
	maps, err := user.CurrentProcessUIDMap()
	return err == nil && countIDs(maps) == 1
})

// recordsOthers reports whether what the processes make may be recorded as that of another user than root, who has what is there already and no record.
func (b *bundle) recordsOthers() bool {
	return !b.foreign && b.ids == nil && oneID() && b.spec.User != ""
}

// owned is what a container's processes say of owners.
type owned struct {
	uppers []string                      // where the changes of roots go
	first  layer.Owner                   // whom new files belong to
	layers []string                      // that the root is of, base first
	upper  *os.File                      // where overlayfs has what is changed; nil: there is no overlay
	since  time.Time                     // when the first process began: nothing that processes made is older
	kept   []string                      // where cache mounts are
	fixed  map[owners.Inode]layer.Record // of directories in the place of others

	mu          sync.Mutex
	supervisors []*owners.Supervisor
	links       []layer.LinkRecord
}

// newOwned prepares for a bundle whose roots are mounted. It is nil where owners are what they are.
func newOwned(b *bundle) (*owned, error) {
	if b.foreign || b.ids != nil || !oneID() {
		return nil, nil
	}
	o := b.ownedHere()
	o.uppers = slices.Clone(b.uppers)
	for _, e := range b.elsewhere {
		o.uppers[slices.Index(o.uppers, e.upper)] = e.dir()
	}
	upper := b.spec.Root.Upper
	if upper == "" {
		return o, nil
	}
	o.layers = append(slices.Clone(o.layers), upper) // of a container that ran before
	for _, e := range b.elsewhere {
		if e.upper == upper {
			upper = filepath.Join("/proc/thread-self/fd", strconv.Itoa(int(e.memory.Fd())))
		}
	}
	var err error
	if o.upper, err = os.OpenFile(upper, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, fmt.Errorf("recording owners: %w", err)
	}
	return o, nil
}

// ownedHere is for processes that change the files themselves.
func (b *bundle) ownedHere() *owned {
	user := b.oci.Process.User
	o := &owned{first: layer.Owner{UID: user.UID, GID: user.GID}, layers: b.spec.Root.Lower,
		fixed: map[owners.Inode]layer.Record{}}
	for _, m := range b.spec.Mounts {
		if m.Mapped {
			o.kept = append(o.kept, strings.TrimPrefix(filepath.Clean(m.Dest), "/"))
		}
	}
	return o
}

// coarseNow is the time as filesystems tell it of what is made now.
func coarseNow() time.Time {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t) != nil {
		return time.Now()
	}
	return time.Unix(t.Unix())
}

// otherUser reports whether the process is not the root that it is now.
func (b *bundle) otherUser() bool {
	u := b.oci.Process.User
	return b.owned != nil && (u.UID != 0 || u.GID != 0)
}

// keptProc is the descriptor of slipway's own /proc in a process that is to be another user: the container's may be read-only, or what
// the image makes it. The lowest free numbers are for others.
const keptProc = initproc.Socket + 6

const userWhat = "becoming the user with the one ID that there is"

// keepProc keeps /proc for becomeUser.
func (in *inside) keepProc() {
	if in.b.otherUser() {
		proc := in.Add(userWhat, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
		in.Add(userWhat, unix.SYS_DUP3, proc, keptProc, unix.O_CLOEXEC)
		in.Add(userWhat, unix.SYS_CLOSE, proc)
	}
}

// becomeUser gives the process a namespace in which the one ID is its user's.
func (in *inside) becomeUser() {
	if !in.b.otherUser() {
		return
	}
	u := in.b.oci.Process.User
	in.Add(userWhat, unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	for _, file := range []struct{ name, text string }{
		{"setgroups", "deny"}, {"uid_map", fmt.Sprintf("%d 0 1", u.UID)}, {"gid_map", fmt.Sprintf("%d 0 1", u.GID)},
	} {
		fd := in.Add(userWhat, unix.SYS_OPENAT, keptProc, "self/"+file.name, unix.O_WRONLY|unix.O_CLOEXEC)
		in.Add(userWhat, unix.SYS_WRITE, fd, file.text, len(file.text))
		in.Add(userWhat, unix.SYS_CLOSE, fd)
	}
	in.Add(userWhat, unix.SYS_CLOSE, keptProc)
}

// supervised gives the process the filter of owners. It sends its root, in which files are recorded, and the filter's listener.
func (in *inside) supervised() {
	if in.b.owned == nil {
		return
	}
	filter := in.b.rules().Program()
	program := in.Words(len(filter)/8, in.Bytes(filter))
	in.sends(in.Add(ownedWhat, unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC))
	in.sends(in.Add(ownedWhat, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, owners.Flags()|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, program))
}

const ownedWhat = "having its owners recorded"

// sends has the process send a descriptor and close it.
func (in *inside) sends(file *initproc.Call) {
	const fd = initproc.Socket + 1
	in.Add(ownedWhat, unix.SYS_DUP3, file, fd, unix.O_CLOEXEC).Forgive(unix.EINVAL) // it has that number already
	in.Add(ownedWhat, unix.SYS_SENDMSG, initproc.Socket, in.message(fd), 0)
	in.Add(ownedWhat, unix.SYS_CLOSE, fd)
}

// rules are those of the process.
func (b *bundle) rules() owners.Rules {
	u := b.oci.Process.User
	return owners.Rules{UID: u.UID, GID: u.GID, Groups: u.AdditionalGids, Root: u.UID == 0, Fake: os.Geteuid() != 0}
}

// supervise begins to answer a process that has sent its root and its listener. If it did not, its error tells why.
func (b *bundle) supervise(socket int) error {
	if b.owned == nil {
		return nil
	}
	root := sentFile(socket)
	if root == nil {
		return nil
	}
	defer root.Close()
	places, err := b.owned.places(root)
	if err != nil {
		return err
	}
	listener := sentFile(socket)
	if listener == nil {
		return nil
	}
	b.owned.mu.Lock()
	if b.owned.since.IsZero() { // the first process begins, which may have been prepared while the step before it ran
		b.owned.since = coarseNow().Add(-1) // what it makes in the same tick of that clock is its own
	}
	b.owned.mu.Unlock()
	s, err := owners.Serve(listener, owners.Options{Rules: b.rules(), Root: root, Places: places, Layers: b.owned.layers,
		Upper: b.owned.upper, Kept: b.owned.kept, Fixed: b.owned.fixed, Since: b.owned.since})
	if err != nil {
		return err
	}
	b.owned.mu.Lock()
	defer b.owned.mu.Unlock()
	b.owned.supervisors = append(b.owned.supervisors, s)
	return nil
}

// places are where files are recorded: in the root and in cache mounts, which are slipway's.
func (o *owned) places(root *os.File) ([]owners.Place, error) {
	first, err := owners.MountOf(int(root.Fd()))
	if err != nil {
		return nil, err
	}
	all := []owners.Place{first}
	for _, path := range o.kept {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		fd, err := unix.Openat2(int(root.Fd()), path, &how)
		if err != nil {
			continue
		}
		place, err := owners.MountOf(fd)
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return nil, err
		}
		all = append(all, place)
	}
	return all, nil
}

// sentFile takes the descriptor that a process sends before it executes its program; nil: it sends none, and its error comes instead.
func sentFile(socket int) *os.File {
	var n int
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(socket, make([]byte, 8), unix.MSG_PEEK)
	}
	if n != 1 {
		return nil
	}
	f, err := receiveFile(socket)
	if err != nil {
		return nil
	}
	return f
}

// end ends answering.
func (o *owned) end() error {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, s := range o.supervisors {
		errs = append(errs, s.Close())
		o.links = append(o.links, s.Links()...)
	}
	o.supervisors = nil
	if o.upper != nil {
		errs = append(errs, o.upper.Close())
		o.upper = nil
	}
	return errors.Join(errs...)
}

// finish records the owners of what processes have changed, when none is left and nothing is mounted, if that is wanted.
func (o *owned) finish(wanted bool) error {
	if o == nil {
		return nil
	}
	errs := []error{o.end()}
	if !wanted {
		return errs[0]
	}
	c := layer.Completion{New: o.first, Links: o.links}
	for _, u := range o.uppers {
		errs = append(errs, layer.Complete(u, c))
	}
	return errors.Join(errs...)
}
