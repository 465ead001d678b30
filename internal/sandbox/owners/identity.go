package owners

import (
	"bytes"
	"encoding/binary"
	"os"
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
	started       string // when the process began, by the kernel: another one may have its number
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
	if len(c.s.identities) == 0 && c.get {
		return id, ""
	}
	number, parent, started, ok := c.s.process(strconv.Itoa(int(c.n.pid)))
	if !ok || c.valid() != nil {
		return id, ""
	}
	own, at := started, number
	for range 100 {
		if known, found := c.s.identities[at]; found && known.started == started {
			id = known
			break
		}
		if at, parent, started, ok = c.s.process(parent); !ok || parent == "0" {
			break
		}
	}
	id.started = own
	return id, number
}

// whoami answers a call about the caller's IDs.
func (c *call) whoami() (value int64, err error) {
	id, number := c.identity()
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
	if number == "" {
		return 0, unix.EAGAIN
	}
	if id.users == (triple{}) && id.groups == (triple{}) { // as without an entry
		delete(c.s.identities, number)
		return 0, nil
	}
	if c.s.identities == nil {
		c.s.identities = map[string]identity{}
	}
	c.s.identities[number] = id
	return 0, nil
}
