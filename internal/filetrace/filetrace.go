// Package filetrace tells which files of a filesystem processes open, as the kernel tells it (fanotify).
//
// # Structure
//
// A [Watch] hears of everything that is opened on some mounted filesystems, by whichever process in whichever namespace. A [Writer] keeps it in a
// file, each path once and no more than a bound, and [Read] reads that file.
//
// # Caveats
//
// The kernel tells it to who has CAP_SYS_ADMIN in the machine's own user namespace. It tells of opening: files, programs that are executed, and
// directories, which are opened to be listed. What is only asked about (stat, access, readlink) it does not tell.
//
// A path is where the file is when its process opens it, and so what the process has made of it: a file that was renamed before has its new name.
// So a trace is a claim of the processes, for who wants to know what a build did, and nothing to decide about rights by.
//
// While a process waits for a file to be told, the kernel opens that file for the watch, too. Where it cannot (this process has no descriptor left, or somebody
// holds a write lease of the file), the process gets EPERM. No other way is as good: without O_NONBLOCK the kernel would wait for who holds the lease, and for
// ever where the file is a pipe; events that are only queued get lost, or take as much memory as a process likes, and are of the paths of later.
package filetrace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Kind is what was done with a path.
type Kind byte

// The kinds. What is executed is opened, too.
const (
	Opened   Kind = 'o' // a file was opened, to be read or written
	Executed Kind = 'x' // a file was opened to be executed
	Listed   Kind = 'd' // a directory was opened, as to be listed
)

// Watch hears of what is opened.
type Watch struct {
	fd    int
	asks  bool // who opens something waits until the watch has heard of it
	stop  int  // a pipe's end that, closed, ends the reading
	ended chan struct{}
	self  int32
	tell  func(Kind, string) (again bool)

	// Of the one who reads:
	events  []byte
	link    []byte
	lost    int
	ignored int
}

// The two ways to hear of it. With the first one a process waits for a moment at each file, nothing gets lost, and a path is that of the moment; a kernel without
// CONFIG_FANOTIFY_ACCESS_PERMISSIONS has the second one alone: events are queued, and too many of them get lost.
const (
	asked  = unix.FAN_OPEN_PERM | unix.FAN_OPEN_EXEC_PERM
	queued = unix.FAN_OPEN | unix.FAN_OPEN_EXEC
)

// maxIgnored bounds how many files the kernel is told to be silent about, each of which takes some hundred bytes there.
const maxIgnored = 1 << 16

// eventSize is that of an event without more information.
const eventSize = unix.FAN_EVENT_METADATA_LEN

// maxEvents is how many events are read at once: so many files are open for a moment.
const maxEvents = 16

// open makes a group. What is opened for it never waits: somebody may hold a lease of the file.
func open(class uint) (int, error) {
	fd, err := unix.FanotifyInit(class|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("fanotify_init", err)
	}
	return fd, nil
}

// Supported says why the kernel tells this process of no files; nil: it does.
func Supported() error {
	fd, err := open(unix.FAN_CLASS_NOTIF)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the kernel tells it root of the machine alone: %w", err)
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// Start begins to hear of what is opened on the overlay that is mounted at a path, in all places where it is mounted later, and on others that processes see in
// mounts. tell is called from one goroutine, and reports whether it has been told the same before. What this process itself opens is not told.
func Start(root string, mounts []string, tell func(Kind, string) (again bool)) (*Watch, error) {
	all := append([]string{root}, mounts...)
	for _, path := range all {
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
		}
		if fs.Type != unix.OVERLAYFS_SUPER_MAGIC { // it may be the machine's
			return nil, fmt.Errorf("tracing %s: it is no overlay", path)
		}
	}
	w, err := start(all, tell, true)
	if errors.Is(err, unix.EINVAL) { // of mounts that are gone when it is told there are no paths any more
		return start(all[:1], tell, false)
	}
	return w, err
}

// Mounts reports whether what is opened in mounts is told.
func (w *Watch) Mounts() bool { return w.asks }

// start is [Start] in one of the two ways.
func start(paths []string, tell func(Kind, string) (again bool), asks bool) (*Watch, error) {
	w := &Watch{tell: tell, asks: asks, stop: -1, ended: make(chan struct{}), self: int32(os.Getpid()), events: make([]byte, maxEvents*eventSize), link: make([]byte, unix.PathMax)}
	class, mask := uint(unix.FAN_CLASS_NOTIF), uint64(queued)
	if asks {
		class, mask = unix.FAN_CLASS_CONTENT, asked
	}
	var err error
	if w.fd, err = mark(paths, class, mask); err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(os.NewSyscallError("pipe2", err), unix.Close(w.fd))
	}
	w.stop = pipe[1]
	go w.read(pipe[0])
	return w, nil
}

// mark makes a group that hears of filesystems.
func mark(paths []string, class uint, mask uint64) (int, error) {
	fd, err := open(class)
	if err != nil {
		return -1, err
	}
	for _, path := range paths {
		if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, mask|unix.FAN_ONDIR, unix.AT_FDCWD, path); err != nil {
			return -1, errors.Join(os.NewSyscallError("fanotify_mark", err), unix.Close(fd))
		}
	}
	return fd, nil
}

// Close ends the hearing: what was opened before is told first. lost is how often something was opened that could not be told, or at least that it was.
func (w *Watch) Close() (lost int, err error) {
	err = unix.Close(w.stop)
	<-w.ended
	return w.lost, errors.Join(err, unix.Close(w.fd))
}

// maxLast bounds what is read after the end: there are no processes any more, but for somebody of the machine who looks into the filesystem.
const maxLast = 1 << 16

// read reads until the other end of the pipe is closed, and then what has come by then.
func (w *Watch) read(stop int) {
	defer close(w.ended)
	defer unix.Close(stop)
	last := 0
	for timeout := -1; ; {
		polled := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
		_, err := unix.Poll(polled, timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if polled[1].Revents != 0 {
			timeout = 0
			last++
		}
		if err != nil || timeout == 0 && polled[0].Revents == 0 || last > maxLast {
			return
		}
		if polled[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(w.fd, w.events)
		if err != nil && !errors.Is(err, unix.EINTR) {
			w.lost++ // there was an event, and its file could not be opened
		}
		w.each(w.events[:max(n, 0)])
	}
}

// each tells of events, and then lets their processes go on. Until then the files of all of them are closed: a process must not find that somebody else has its pipe open
// to read from it, or its file when it takes a lease.
func (w *Watch) each(events []byte) {
	var waiting []int
	for len(events) >= eventSize {
		size := int(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint64(events[8:])
		fd := int(int32(binary.NativeEndian.Uint32(events[16:])))
		pid := int32(binary.NativeEndian.Uint32(events[20:]))
		if mask&unix.FAN_Q_OVERFLOW != 0 || fd < 0 {
			w.lost++
		} else {
			if pid != w.self {
				w.one(fd, mask)
			}
			_ = unix.Close(fd) // it was only looked at
			waiting = append(waiting, fd)
		}
		if size < eventSize || size > len(events) {
			break
		}
		events = events[size:]
	}
	if w.asks {
		w.answer(waiting)
	}
}

// answer lets processes go on. The kernel knows what they wait for by the numbers of the files, which are closed.
func (w *Watch) answer(waiting []int) {
	for _, fd := range waiting {
		var response [8]byte
		binary.NativeEndian.PutUint32(response[:], uint32(fd))
		binary.NativeEndian.PutUint32(response[4:], unix.FAN_ALLOW)
		if _, err := unix.Write(w.fd, response[:]); err != nil {
			w.lost++ // the process is killed
		}
	}
}

// one tells of a file.
func (w *Watch) one(fd int, mask uint64) {
	var st unix.Stat_t
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), w.link)
	if err != nil || n == len(w.link) || n == 0 || w.link[0] != '/' || unix.Fstat(fd, &st) != nil { // too deep to have a name
		w.lost++
		return
	}
	again := true
	for _, path := range names(&st, w.link[:n]) {
		for _, k := range kinds(&st, mask) {
			again = w.tell(k, path) && again
		}
	}
	// Libraries, headers and shells are opened again and again. A file with several names may be opened by another one.
	if again && w.ignored < maxIgnored && (directory(&st) || st.Nlink == 1) {
		w.ignored++
		_ = unix.FanotifyMark(w.fd, unix.FAN_MARK_ADD|unix.FAN_MARK_IGNORED_MASK|unix.FAN_MARK_IGNORED_SURV_MODIFY, mask&(asked|queued),
			unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd)) // otherwise it is told again
	}
}

func directory(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// kinds are what an event says of a file.
func kinds(st *unix.Stat_t, mask uint64) (all []Kind) {
	if directory(st) {
		return []Kind{Listed}
	}
	if mask&(unix.FAN_OPEN|unix.FAN_OPEN_PERM) != 0 {
		all = append(all, Opened)
	}
	if mask&(unix.FAN_OPEN_EXEC|unix.FAN_OPEN_EXEC_PERM) != 0 {
		all = append(all, Executed)
	}
	return all
}

// deletedMark ends the path of what was deleted, as the kernel tells it. A name may end so, too.
const deletedMark = " (deleted)"

// names are the paths that the kernel's name of an open file may stand for.
func names(st *unix.Stat_t, link []byte) []string {
	path, deleted := bytes.CutSuffix(link, []byte(deletedMark))
	switch {
	case !deleted:
		return []string{string(link)}
	case st.Nlink == 0:
		return []string{string(path)}
	}
	return []string{string(path), string(link)}
}
