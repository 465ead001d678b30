// Command tool is what the Dockerfiles of the table run that no small image has.
//
//	tool setxattr PATH NAME HEX   set an extended attribute
//	tool daemons MARK FILE        leave processes that do not want to end; their command lines have the mark. Make the file when they have begun
//	tool signal-all               send every process that may be sent to a signal that ends it
//	tool first-to-die             have others ended when memory is short; fails when that can be done
//	tool attack SECRET            read, stop or change whatever is not of this step; fails when something could be reached
package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("which?")
	}
	switch args[0] {
	case "setxattr":
		value, err := hex.DecodeString(args[3])
		if err != nil {
			return err
		}
		return unix.Lsetxattr(args[1], args[2], value, 0)
	case "daemons":
		return daemons(args[1], args[2])
	case "daemon":
		return daemon(args[2])
	case "signal-all":
		if err := unix.Kill(-1, unix.SIGUSR1); !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
			return err // nobody else is no error here
		}
		return nil
	case "first-to-die":
		return everyProcess(func(dir string, pid int, note func(int, string)) {
			if !builder(dir) {
				return
			}
			if err := os.WriteFile(dir+"/oom_score_adj", []byte("1000"), 0); err == nil {
				note(pid, "wrote oom_score_adj")
			}
		})
	case "attack":
		return attack(args[1])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// daemons starts one daemon of each kind, waits until they have begun and makes a file.
func daemons(mark, begun string) error {
	for _, kind := range []string{"sleeper", "runner", "child"} {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		cmd := exec.Command("/proc/self/exe", "daemon", mark, kind)
		cmd.Stdout = w
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: kind != "child"}
		if err := cmd.Start(); err != nil {
			return err
		}
		w.Close()
		if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
			return fmt.Errorf("starting a %s: %w", kind, err)
		}
		r.Close()
	}
	return os.WriteFile(begun, []byte("started\n"), 0o644)
}

// daemon does not end by itself. A runner is another process again and again.
func daemon(kind string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	os.Stdout.WriteString(".")
	os.Stdout.Close()
	if kind != "runner" {
		for {
			time.Sleep(time.Hour)
		}
	}
	time.Sleep(5 * time.Millisecond) // or it takes a processor
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// attack looks at every process that it can name.
func attack(secret string) error {
	return everyProcess(func(dir string, pid int, note func(int, string)) {
		if data, err := os.ReadFile(dir + "/environ"); err == nil && bytes.Contains(data, []byte(secret)) {
			note(pid, "its environment has the builder's secret")
		}
		if builder(dir) {
			attackOne(dir, pid, note)
		}
	})
}

// everyProcess has something tried with every other process, and fails when anything could be noted.
func everyProcess(try func(dir string, pid int, note func(int, string))) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var reached []string
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || dir == self() {
			continue
		}
		try(dir, pid, func(pid int, what string) { reached = append(reached, fmt.Sprintf("process %d: %s", pid, what)) })
	}
	if len(reached) > 0 {
		return errors.New("reached:\n" + strings.Join(reached, "\n"))
	}
	return nil
}

// self is this process's directory, whose number is another one where /proc is that of another namespace.
func self() string {
	name, err := os.Readlink("/proc/self")
	if err != nil {
		return ""
	}
	return "/proc/" + name
}

// builder tells of a process whether it is slipway, or one that slipway has for itself.
func builder(dir string) bool {
	comm, _ := os.ReadFile(dir + "/comm")
	line, _ := os.ReadFile(dir + "/cmdline")
	program, _, _ := bytes.Cut(line, []byte{0})
	return bytes.Contains(comm, []byte("slipway")) || bytes.Contains(program, []byte("slipway")) || bytes.Contains(program, []byte("executor"))
}

// attackOne tries what one process can do to another.
func attackOne(dir string, pid int, note func(int, string)) {
	for _, name := range []string{"environ", "mem", "maps", "auxv"} {
		if f, err := os.Open(dir + "/" + name); err == nil {
			buf := make([]byte, 16)
			if n, err := f.Read(buf); name == "mem" || (err == nil && n > 0) {
				note(pid, "opened "+name)
			}
			f.Close()
		}
	}
	for _, name := range []string{"exe", "cwd", "root"} {
		if to, err := os.Readlink(dir + "/" + name); err == nil {
			note(pid, name+" is "+to)
		}
	}
	if entries, err := os.ReadDir(dir + "/root/"); err == nil {
		note(pid, fmt.Sprintf("its root has %d entries", len(entries)))
	}
	fds, _ := os.ReadDir(dir + "/fd") // their numbers alone tell little
	for _, fd := range fds {
		if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil {
			note(pid, "has open "+to)
		}
	}
	// What has a number here may be another process, or none, by that number in calls.
	if pid == 1 || pid == os.Getppid() {
		return
	}
	if err := unix.PtraceAttach(pid); err == nil {
		note(pid, "attached as a debugger")
	}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		for n := range 16 {
			if _, err := unix.PidfdGetfd(fd, n, 0); err == nil {
				note(pid, fmt.Sprintf("took file %d", n))
				break
			}
		}
		unix.Close(fd)
	}
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGTERM, unix.SIGKILL} {
		if err := unix.Kill(pid, sig); err == nil {
			note(pid, "took a "+sig.String())
		}
	}
}
