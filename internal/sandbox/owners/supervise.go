package owners

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Inode is a file of one filesystem.
type Inode struct{ Dev, Ino uint64 }

// Supervisor answers calls of processes.
type Supervisor struct {
	rules    Rules
	listener *os.File
	stop     *os.File // an eventfd
	ended    chan struct{}

	// Of the supervising thread.
	proc, fds int     // /proc, and this process's directory of descriptors there, O_PATH
	names     string  // the path of that directory from the working directory, with a slash; "": it is the working directory
	places    []Place // of the files that are recorded; none: not known so far
	chroots   bool    // the thread may change its root
	rooted    bool    // the thread's root is that of all processes
	firstRoot Inode   // that the processes began in
	below     func() layer.Beside
	upper     *os.File
	kept      []string
	fixed     map[Inode]layer.Record
	since     int64  // when the processes began, in nanoseconds
	uid, gid  uint32 // of this process

	identities map[string]identity // of processes that became somebody else, by their numbers
	// It is looked which of them are gone when there are as many as swept, and when it was asked often enough since.
	swept, asked int

	mu    sync.Mutex
	links map[Inode]layer.LinkRecord // of what cannot have attributes
	held  int                        // bytes that these take
	err   error
}

// Place is where files are that are recorded: a mount, or a device whatever is mounted of it.
type Place struct {
	Mount uint64 // 0: any
	Dev   uint64
}

// MountOf is the mount that an open file is in.
func MountOf(fd int) (Place, error) {
	var x unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &x); err != nil {
		return Place{}, os.NewSyscallError("statx", err)
	}
	return Place{Mount: x.Mnt_id}, nil
}

// Options say what a supervisor answers, and what it knows of the processes.
type Options struct {
	Rules
	// Root is the root directory of the processes; O_PATH. nil: it is found out of each of them, as it is when one of them gets another one.
	Root *os.File
	// Places are where files are recorded; none: the mount of the first caller's root.
	Places []Place
	// Layers are the directories of the layers that are seen, base first, of which symbolic links and the like have records beside them.
	Layers []string
	// Kept are paths, without a slash at their beginning, of directories that outlive the processes' root, as cache mounts. What has no record there belongs
	// to whoever looks.
	Kept []string
	// Fixed are directories that belong to somebody else, and what they stand for.
	Fixed map[Inode]layer.Record
	// Upper is where overlayfs has what the processes change; nil: they change the files themselves. It stays the caller's.
	Upper *os.File
	// Since is a time before the processes began; the zero time: all is older than they are.
	Since time.Time
}

// Serve answers the calls that come from a filter's listener, which it closes, until [Supervisor.Close], or until no process has the
// filter any more.
func Serve(listener *os.File, opt Options) (*Supervisor, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	s := newSupervisor(listener, opt)
	s.stop = os.NewFile(uintptr(stop), "eventfd")
	begun := make(chan error)
	go func() {
		defer close(s.ended)
		runtime.LockOSThread() // never unlocked: its root is not the process's
		err := s.begin(opt.Root)
		begun <- err
		if err == nil {
			s.loop()
		}
	}()
	if err := <-begun; err != nil {
		return nil, errors.Join(fmt.Errorf("supervising owners: %w", err), s.stop.Close())
	}
	return s, nil
}

// Close ends answering: what processes that are left ask for then fails with ENOSYS.
func (s *Supervisor) Close() error {
	_, err := s.stop.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-s.ended
	return errors.Join(err, s.stop.Close(), s.err)
}

// Links are the owners of symbolic links, pipes and devices, which cannot have attributes.
func (s *Supervisor) Links() []layer.LinkRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.links))
}

func newSupervisor(listener *os.File, opt Options) *Supervisor {
	since := opt.Since.UnixNano()
	if opt.Since.IsZero() {
		since = math.MaxInt64
	}
	s := &Supervisor{rules: opt.Rules, listener: listener, ended: make(chan struct{}), links: map[Inode]layer.LinkRecord{}, places: opt.Places,
		upper: opt.Upper, kept: opt.Kept, fixed: maps.Clone(opt.Fixed), since: since, uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	s.readBeside(opt.Layers)
	return s
}

// readBeside has s.below read the records that are beside layers when it is called first. The caller's thread has another root, in which the layers'
// paths lead elsewhere.
func (s *Supervisor) readBeside(layers []string) {
	s.below = sync.OnceValue(func() (all layer.Beside) {
		read := make(chan error)
		go func() {
			var err error
			all, err = layer.User.ReadBeside(layers)
			read <- err
		}()
		if err := <-read; err != nil {
			s.err = fmt.Errorf("reading recorded owners: %w", err)
		}
		return all
	})
}

// begin prepares the thread.
func (s *Supervisor) begin(root *os.File) (err error) {
	own := unix.Unshare(unix.CLONE_FS)
	if own != nil && own != unix.EPERM { // which Docker's seccomp profile says to who has no capabilities
		return os.NewSyscallError("unshare", own)
	}
	if s.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: "/proc", Err: err}
	}
	if s.fds, err = unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return errors.Join(&os.PathError{Op: "open", Path: "/proc/self/fd", Err: err}, unix.Close(s.proc))
	}
	s.names = "/proc/self/fd/"
	if own == nil {
		if err := unix.Fchdir(s.fds); err != nil {
			return errors.Join(os.NewSyscallError("fchdir", err), unix.Close(s.proc), unix.Close(s.fds))
		}
		s.names, s.chroots = "", unix.Chroot("/") == nil
	}
	if root != nil {
		s.firstRoot = inodeOf(int(root.Fd()))
	}
	switch {
	case root == nil:
	case s.chroots:
		err = s.chroot(int(root.Fd()))
		s.rooted = err == nil
	default:
		s.rooted = isRoot(int(root.Fd()))
	}
	if err != nil {
		return errors.Join(os.NewSyscallError("chroot", err), unix.Close(s.proc), unix.Close(s.fds))
	}
	return nil
}

// chroot gives the thread another root.
func (s *Supervisor) chroot(root int) error {
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Fchdir(s.fds)
}

// isRoot reports whether a directory is the root of this thread.
func isRoot(dir int) bool {
	var own unix.Stat_t
	return unix.Stat("/", &own) == nil && Inode{own.Dev, own.Ino} == inodeOf(dir)
}

// inodeOf is the file that is open; none has the number 0.
func inodeOf(fd int) Inode {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return Inode{}
	}
	return Inode{st.Dev, st.Ino}
}

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

const (
	ioctlValid    = 0x40082102 // SECCOMP_IOCTL_NOTIF_ID_VALID
	ioctlSetFlags = 0x40082104 // SECCOMP_IOCTL_NOTIF_SET_FLAGS
)

func (s *Supervisor) ioctl(request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, s.listener.Fd(), request, uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// loop answers until it is stopped or nobody is left.
func (s *Supervisor) loop() {
	defer func() {
		_ = unix.Close(s.proc)
		_ = unix.Close(s.fds)
		_ = s.listener.Close() // whoever waits for an answer gets ENOSYS
	}()
	// Caller and supervisor take turns (Linux 6.6).
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, s.listener.Fd(), ioctlSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	wait := []unix.PollFd{{Fd: int32(s.listener.Fd()), Events: unix.POLLIN}, {Fd: int32(s.stop.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(wait, -1); err != nil && err != unix.EINTR {
			s.err = errors.Join(s.err, fmt.Errorf("supervising owners: %w", os.NewSyscallError("poll", err)))
			return
		}
		if wait[1].Revents != 0 {
			return
		}
		if wait[0].Revents&unix.POLLIN == 0 {
			if wait[0].Revents != 0 { // nobody has the filter any more
				return
			}
			continue
		}
		var n notification
		if err := s.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			continue // the caller was killed
		}
		r, sent := s.answer(&n)
		if sent {
			continue
		}
		_ = s.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // it may have been killed meanwhile
	}
}

// errNative says that the kernel's own answer is the right one. The call has changed nothing so far, and the kernel allows
// no more than it would without a supervisor.
var errNative = errors.New("the kernel's own answer")

// answer finds out what to answer. sent: that was done.
func (s *Supervisor) answer(n *notification) (r response, sent bool) {
	r.id = n.id
	l, ok := supervised()[int(n.nr)]
	if !ok || n.arch != arch || n.pid == 0 {
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		return r, false
	}
	c := &call{s: s, n: n, layout: l, object: -1, root: -1, dirfd: -1}
	err := c.do()
	c.close()
	var errno unix.Errno
	switch {
	case err == nil:
		r.val = c.result
	case errors.Is(err, errNative):
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	case errors.Is(err, errSent):
		return r, true
	case errors.As(err, &errno):
		r.error = -int32(errno)
	default:
		r.error = -int32(unix.EIO)
	}
	return r, false
}

// valid reports whether the caller still waits for the answer: what was opened of its number in /proc until now is its own, and no
// other process's that has the number now.
func (c *call) valid() error {
	id := c.n.id
	if err := c.s.ioctl(ioctlValid, unsafe.Pointer(&id)); err != nil {
		return unix.ESRCH
	}
	return nil
}

// readText reads a string of the caller's memory.
func (c *call) readText(at uint64, most int) (string, error) {
	var text []byte
	page := uint64(os.Getpagesize())
	for len(text) < most {
		b := make([]byte, min(uint64(most-len(text)), page-at%page))
		n, err := c.read(at, b)
		if err != nil {
			return "", err
		}
		for i, char := range b[:n] {
			if char == 0 {
				return string(append(text, b[:i]...)), nil
			}
		}
		text = append(text, b[:n]...)
		at += uint64(n)
	}
	return "", unix.ENAMETOOLONG
}

// read reads the caller's memory.
func (c *call) read(at uint64, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(int(c.n.pid), local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	switch {
	case err == unix.ESRCH || err == nil && n > 0:
		return n, err
	case err == unix.EPERM || err == unix.ENOSYS:
		return 0, errNative // whose memory nobody may read
	}
	return 0, unix.EFAULT
}

// readAll reads as much of the caller's memory as b takes.
func (c *call) readAll(at uint64, b []byte) error {
	for len(b) > 0 {
		n, err := c.read(at, b)
		if err != nil {
			return err
		}
		at, b = at+uint64(n), b[n:]
	}
	return nil
}

// write writes to the caller's memory, and never to another process's that has the number by then.
func (c *call) write(at uint64, b []byte) error {
	fd, err := unix.Openat(c.s.proc, strconv.Itoa(int(c.n.pid))+"/mem", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errNative // whose memory nobody may write to
	}
	defer unix.Close(fd)
	if err := c.valid(); err != nil {
		return err
	}
	if at > math.MaxInt64 {
		return unix.EFAULT
	}
	if n, err := unix.Pwrite(fd, b, int64(at)); err != nil || n != len(b) {
		return unix.EFAULT
	}
	return nil
}

// openProc opens something of the caller's in /proc.
func (c *call) openProc(name string, flags int) (int, error) {
	return unix.Openat(c.s.proc, strconv.Itoa(int(c.n.pid))+"/"+name, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
}
