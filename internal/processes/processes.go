// Package processes tells which processes have run below others: when they ended, what of the machine they have used.
//
// The kernel says so of each thread of the machine that ends (taskstats), to who has CAP_NET_ADMIN and is in the machine's own
// namespaces of users and PIDs. Nobody is slowed down: what comes too fast is lost, and counted.
package processes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process is one that has ended.
type Process struct {
	PID     int           `json:"pid"` // as the machine has it
	Parent  int           `json:"parent"`
	Root    int           `json:"root"`    // the process that was asked for, which this one came of, or is
	Command string        `json:"command"` // the name of the program, 15 letters at most
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took"`
	User    time.Duration `json:"user"`
	System  time.Duration `json:"system"`
	Memory  int64         `json:"memory"`  // bytes at its peak
	Read    int64         `json:"read"`    // bytes of all that it read, from disks or not
	Written int64         `json:"written"` // likewise
	Exit    int           `json:"exit"`    // its exit code; 128 + signal when it was killed by one
}

// Watch hears of all processes of the machine that end.
type Watch struct {
	fd    int
	stop  int // a pipe's end that, closed, ends the reading
	ended chan struct{}

	mu   sync.Mutex
	of   map[int][]*Process // by PID: one may be given again
	open map[*Process]bool  // whose first thread is not heard of so far
	all  int
	lost int
}

// maxProcesses bounds what is kept in memory.
const maxProcesses = 500_000

// tgidVersion is that of the kernel's structure which tells which process a thread is of.
const tgidVersion = 12

// Start begins to listen. The error says what is missing.
func Start() (*Watch, error) {
	cpus, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return nil, fmt.Errorf("listening for processes: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("listening for processes: %w", os.NewSyscallError("socket", err))
	}
	w := &Watch{fd: fd, stop: -1, ended: make(chan struct{}), of: map[int][]*Process{}, open: map[*Process]bool{}}
	if err := w.register(strings.TrimSpace(string(cpus))); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for processes (the kernel tells root of the machine): %w", err), unix.Close(fd))
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for processes: %w", os.NewSyscallError("pipe2", err)), unix.Close(fd))
	}
	w.stop = pipe[1]
	go w.read(pipe[0])
	return w, nil
}

// register asks for the family's number, and then to be told of what ends on all processors.
func (w *Watch) register(cpus string) error {
	if err := unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) // with less, more is lost
	_ = unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	answer, err := w.ask(unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, unix.CTRL_ATTR_FAMILY_NAME, append([]byte(unix.TASKSTATS_GENL_NAME), 0))
	if err != nil {
		return err
	}
	id := answer[unix.CTRL_ATTR_FAMILY_ID]
	if len(id) < 2 {
		return errors.New("the kernel keeps no statistics of tasks")
	}
	_, err = w.ask(binary.NativeEndian.Uint16(id), unix.TASKSTATS_CMD_GET, unix.TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, append([]byte(cpus), 0))
	return err
}

// ask sends a command with one attribute, and gives the attributes of the answer, if one comes before the acknowledgement.
func (w *Watch) ask(family uint16, command uint8, attr uint16, value []byte) (map[uint16][]byte, error) {
	padded := append(slices.Clone(value), make([]byte, align(len(value))-len(value))...)
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+unix.GENL_HDRLEN+unix.SizeofNlAttr+len(padded)))
	m = binary.NativeEndian.AppendUint16(m, family)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...) // sequence, port
	m = append(m, command, 1, 0, 0)
	m = binary.NativeEndian.AppendUint16(m, uint16(unix.SizeofNlAttr+len(value)))
	m = binary.NativeEndian.AppendUint16(m, attr)
	m = append(m, padded...)
	if err := unix.Sendto(w.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var answer map[uint16][]byte
	buf := make([]byte, 32<<10)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EINTR) { // which a socket with a timeout is not spared
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		if !ofKernel(from) {
			continue
		}
		done := false
		err = messages(buf[:n], func(kind uint16, body []byte) error {
			switch {
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				done = true
				if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
					return unix.Errno(-code)
				}
			case len(body) >= unix.GENL_HDRLEN:
				answer = attributes(body[unix.GENL_HDRLEN:])
			}
			return nil
		})
		if err != nil || done {
			return answer, err
		}
	}
}

// ofKernel reports whether the kernel has sent something, and not a process.
func ofKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// align is a length with what is added to it in messages.
func align(n int) int { return (n + 3) &^ 3 }

// messages gives each message's type and body.
func messages(data []byte, each func(kind uint16, body []byte) error) error {
	for len(data) >= unix.NLMSG_HDRLEN {
		n := int(binary.NativeEndian.Uint32(data))
		if n < unix.NLMSG_HDRLEN || n > len(data) {
			return errors.New("the kernel sent a message that is cut")
		}
		if err := each(binary.NativeEndian.Uint16(data[4:]), data[unix.NLMSG_HDRLEN:n]); err != nil {
			return err
		}
		data = data[min(align(n), len(data)):]
	}
	return nil
}

// attributes are those of a message by their types.
func attributes(data []byte) map[uint16][]byte {
	all := map[uint16][]byte{}
	for len(data) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(data))
		if n < unix.SizeofNlAttr || n > len(data) {
			break
		}
		all[binary.NativeEndian.Uint16(data[2:])&^unix.NLA_F_NESTED] = data[unix.SizeofNlAttr:n]
		data = data[min(align(n), len(data)):]
	}
	return all
}

// maxRest bounds how much is read when nobody wants more: processes of others may end for ever.
const maxRest = 100_000

// read reads until the other end of the pipe is closed, and then what has come by then.
func (w *Watch) read(stop int) {
	defer close(w.ended)
	defer unix.Close(stop)
	buf := make([]byte, 64<<10)
	rest := maxRest
	for stopping := false; rest > 0; {
		timeout := -1
		if stopping {
			timeout = 0
		}
		polled := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		_, err := unix.Poll(polled, timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || stopping && polled[0].Revents == 0 {
			return
		}
		if stopping = stopping || polled[1].Revents != 0; stopping {
			rest--
		}
		if polled[0].Revents == 0 {
			continue
		}
		got, from, err := unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		switch now := time.Now(); {
		case errors.Is(err, unix.ENOBUFS):
			w.mu.Lock()
			w.lost++
			w.mu.Unlock()
		case err == nil && ofKernel(from):
			_ = messages(buf[:got], func(_ uint16, body []byte) error { // of the family, as nothing else was asked for
				if len(body) >= unix.GENL_HDRLEN {
					w.add(attributes(body[unix.GENL_HDRLEN:])[unix.TASKSTATS_TYPE_AGGR_PID], now)
				}
				return nil
			})
		}
	}
}

// add adds a thread that has ended to its process.
func (w *Watch) add(aggregate []byte, now time.Time) {
	data := attributes(aggregate)[unix.TASKSTATS_TYPE_STATS]
	var st unix.Taskstats
	if len(data) < int(unsafe.Offsetof(st.Ac_exe_dev)) {
		return
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st)), data)
	if st.Version < tgidVersion {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	pid := int(st.Ac_tgid)
	began := now.Add(-time.Duration(st.Ac_tgetime) * time.Microsecond)
	p := w.last(pid, began)
	if p == nil {
		if w.all++; w.all > maxProcesses {
			w.lost++
			return
		}
		p = &Process{PID: pid, Started: began}
		w.of[pid] = append(w.of[pid], p)
		w.open[p] = true
	}
	p.User += time.Duration(st.Ac_utime) * time.Microsecond
	p.System += time.Duration(st.Ac_stime) * time.Microsecond
	p.Memory = max(p.Memory, int64(st.Hiwater_rss)<<10)
	p.Read, p.Written = p.Read+int64(st.Read_char), p.Written+int64(st.Write_char)
	p.Took = max(p.Took, now.Sub(p.Started))
	if st.Ac_pid == st.Ac_tgid { // whose name is that of the process
		delete(w.open, p)
		p.Parent, p.Command, p.Exit = int(st.Ac_ppid), comm(&st), exitCode(st.Ac_exitcode)
	}
}

// sameStart is how far apart the beginnings of one process seem to be: each is told when another thread of it ends.
const sameStart = 50 * time.Millisecond

// last is the process with a PID that began at a time. One whose first thread is not heard of has its PID yet, however late one hears of the others.
// The caller holds the lock.
func (w *Watch) last(pid int, began time.Time) *Process {
	all := w.of[pid]
	if len(all) == 0 || !w.open[all[len(all)-1]] && all[len(all)-1].Started.Sub(began).Abs() > sameStart {
		return nil
	}
	return all[len(all)-1]
}

func comm(st *unix.Taskstats) string {
	name := unsafe.Slice((*byte)(unsafe.Pointer(&st.Ac_comm[0])), len(st.Ac_comm))
	name, _, _ = bytes.Cut(name, []byte{0})
	return strings.ToValidUTF8(string(name), "\ufffd")
}

func exitCode(status uint32) int {
	ws := unix.WaitStatus(status)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Close ends the listening and gives the processes that came of some, which are among them, as they began. lost is how often
// something was lost.
func (w *Watch) Close(roots ...int) (all []Process, lost int, err error) {
	err = unix.Close(w.stop)
	<-w.ended
	err = errors.Join(err, unix.Close(w.fd))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, several := range w.of {
		for _, p := range several {
			if p.Root = w.root(p, roots); p.Root != 0 {
				all = append(all, *p)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Process) int { return a.Started.Compare(b.Started) })
	return all, w.lost, err
}

// maxDepth bounds how far up a process is looked for.
const maxDepth = 10_000

// root is the one of some processes that p came of. The parent is the one that had the PID when p ended.
func (w *Watch) root(p *Process, roots []int) int {
	end := p.Started.Add(p.Took)
	for range maxDepth {
		if slices.Contains(roots, p.PID) {
			return p.PID
		}
		if slices.Contains(roots, p.Parent) {
			return p.Parent
		}
		var up *Process
		for _, o := range w.of[p.Parent] {
			if !o.Started.After(end) && !o.Started.Add(o.Took).Add(sameStart).Before(end) {
				up = o
			}
		}
		if up == nil || up == p {
			return 0
		}
		p = up
	}
	return 0
}
