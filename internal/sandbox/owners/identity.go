package owners

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Programs that give up root's rights look whether they did. A process that is root of a step, and becomes somebody else by a call, is told from then
// on that it is, and so are those that it starts; for the kernel it is who it was.

// triple are the real, the effective and the saved ID of a process.
type triple [3]uint32

// identity is who a process is.
type identity struct {
	users, groups triple
	more          []uint32 // further groups
	started       string   // when the process began, by the kernel: another one may have its number
}

// first is who the processes are that the container begins with.
func (r *Rules) first() identity {
	return identity{users: triple{r.UID, r.UID, r.UID}, groups: triple{r.GID, r.GID, r.GID}, more: slices.Sorted(slices.Values(r.Groups))}
}

// process is the caller's process: its number, its parent's, and when it began.
func (s *Supervisor) process(pid string) (number, parent, started string, ok bool) {
	status, err := s.readProc(pid + "/status")
	if err != nil {
		return "", "", "", false
	}
	for line := range bytes.Lines(status) {
		if value, found := strings.CutPrefix(string(line), "Tgid:"); found {
			number = strings.TrimSpace(value)
		}
		if value, found := strings.CutPrefix(string(line), "PPid:"); found {
			parent = strings.TrimSpace(value)
		}
	}
	stat, err := s.readProc(number + "/stat")
	if err != nil {
		return "", "", "", false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return "", "", "", false
	}
	return number, parent, string(fields[19]), true
}

func (s *Supervisor) readProc(name string) ([]byte, error) {
	fd, err := unix.Openat(s.proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b := make([]byte, 8192)
	n, err := f.Read(b)
	return b[:max(n, 0)], err
}

// identity finds who the caller is: what it became, or who started it did.
func (c *call) identity() (id identity, number string) {
	first := c.s.rules.first()
	sets := c.kind == whoami && !c.get
	if !sets && len(c.s.identities) > 0 {
		if c.s.asked++; c.s.asked > 16*len(c.s.identities) {
			c.s.sweep()
		}
	}
	if !sets && len(c.s.identities) == 0 {
		return first, ""
	}
	number, parent, started, ok := c.s.process(strconv.Itoa(int(c.n.pid)))
	if !ok || c.valid() != nil {
		return first, ""
	}
	own, at := started, number
	for range 100 {
		if known, found := c.s.identities[at]; found && known.started == started {
			known.started = own
			if at != number { // whoever began it may end before it
				c.s.know(number, known)
			}
			return known, number
		}
		if at, parent, started, ok = c.s.process(parent); !ok || parent == "0" {
			break
		}
	}
	first.started = own
	return first, number
}

// know notes who a process is.
func (s *Supervisor) know(number string, id identity) {
	if len(s.identities) >= s.swept {
		s.sweep()
	}
	if s.identities == nil {
		s.identities = map[string]identity{}
	}
	s.identities[number] = id
}

// whoami answers a call about the caller's IDs.
func (c *call) whoami() (value int64, err error) {
	id, number := c.identity()
	if c.which == 4 {
		if c.get {
			return c.giveGroups(id.more)
		}
		if id.users[1] != 0 {
			return 0, unix.EPERM
		}
		if id.more, err = c.readGroups(); err != nil {
			return 0, err
		}
		return 0, c.become(id, number)
	}
	ids := &id.users
	if c.group {
		ids = &id.groups
	}
	if c.get {
		if c.which < 3 {
			return int64(ids[c.which]), nil
		}
		for i, at := range c.n.args[:3] {
			if err := c.write(at, binary.NativeEndian.AppendUint32(nil, ids[i])); err != nil {
				return 0, err
			}
		}
		return 0, nil
	}
	root := id.users[1] == 0
	want := triple{c.arg(0), c.arg(1), c.arg(2)}
	was := *ids
	switch c.which {
	case 1: // setuid
		if want[0] == unchanged {
			return 0, unix.EINVAL
		}
		if want = (triple{unchanged, want[0], unchanged}); root {
			want = triple{want[1], want[1], want[1]}
		}
	case 2: // setreuid
		if want[2] = unchanged; want[0] != unchanged || want[1] != unchanged && want[1] != was[0] {
			if want[2] = want[1]; want[2] == unchanged {
				want[2] = was[1]
			}
		}
	}
	for i, w := range want {
		if w == unchanged {
			continue
		}
		if !root && w != was[0] && w != was[1] && w != was[2] {
			return 0, unix.EPERM
		}
		ids[i] = w
	}
	return 0, c.become(id, number)
}

// become notes who a process is.
func (c *call) become(id identity, number string) error {
	if number == "" {
		return unix.EAGAIN
	}
	delete(c.s.identities, number)
	if is, _ := c.identity(); is.users == id.users && is.groups == id.groups && slices.Equal(is.more, id.more) { // without an entry, too
		return nil
	}
	c.s.know(number, id)
	return nil
}

// maxGroups are the most groups that a process has here.
const maxGroups = 1024

func (c *call) readGroups() ([]uint32, error) {
	n := int(int32(c.arg(0)))
	if n < 0 || n > maxGroups {
		return nil, unix.EINVAL
	}
	b := make([]byte, 4*n)
	if err := c.readAll(c.n.args[1], b); err != nil {
		return nil, err
	}
	groups := make([]uint32, n)
	for i := range groups {
		groups[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	slices.Sort(groups) // as the kernel has them
	return groups, c.valid()
}

// giveGroups gives the groups to who has asked for them, or their number.
func (c *call) giveGroups(groups []uint32) (int64, error) {
	n := int(int32(c.arg(0)))
	if n == 0 || len(groups) == 0 {
		return int64(len(groups)), nil
	}
	if n < len(groups) {
		return 0, unix.EINVAL
	}
	var b []byte
	for _, g := range groups {
		b = binary.NativeEndian.AppendUint32(b, g)
	}
	return int64(len(groups)), c.write(c.n.args[1], b)
}

// sweep forgets processes that are gone. What others that they started are stays known by these.
func (s *Supervisor) sweep() {
	for number, id := range s.identities {
		if at, _, started, ok := s.process(number); !ok || at != number || started != id.started {
			delete(s.identities, number)
		}
	}
	s.swept, s.asked = 2*len(s.identities)+256, 0
}
