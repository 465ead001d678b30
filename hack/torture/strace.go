package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// needStrace says why nothing can be done to single system calls.
func needStrace() error {
	if _, err := exec.LookPath("strace"); err != nil {
		return fmt.Errorf("strace is missing: hack/deps.sh test installs it")
	}
	return nil
}

// inject are the words before a command that do something to calls: what is an action in strace's words.
// files, if there are any, are those that the calls are about.
func (r *round) inject(calls, what string, files ...string) []string {
	words := []string{"strace", "-f", "-qqq", "-o", r.trace(), "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what}
	if !strings.HasPrefix(what, "signal=") { // with the filter, strace 6.1 sends no signals, and says nothing
		words = slices.Insert(words, 1, "--seccomp-bpf")
	}
	for _, f := range files {
		words = append(words, "-P", f)
	}
	return words
}

func (r *round) trace() string { return filepath.Join(r.dir, "trace") }

// injected is how many calls of the last command failed.
func (r *round) injected() int64 {
	text, _ := os.ReadFile(r.trace()) // one that did not even start has none
	return int64(bytes.Count(text, []byte("(INJECTED)")))
}

// writers are the calls that change what is on a disk, by groups that are chosen with the same chance. An
// exclamation mark: Go's runtime makes them for itself, so that they may not fail. What is in its place by a rename has
// its record after it, which only those see that die right there: it is chosen more often.
var writers = []string{
	"rename,renameat,renameat2", "rename,renameat,renameat2", "rename,renameat,renameat2", "rename,renameat,renameat2", "mkdir,mkdirat", "link,linkat,symlink,symlinkat", "unlink,unlinkat,rmdir",
	"pwrite64", "!write", "ftruncate,fallocate,truncate", syncs, "fchmod,fchmodat,fchown,fchownat,utimensat,fsetxattr",
	"!openat,openat2", "!fcntl,flock", "!mount,fsmount,move_mount,umount2", "!clone,clone3,execve", "copy_file_range,sendfile",
}

const syncs = "fsync,fdatasync,syncfs"

func (r *round) writer(fails bool) string {
	for {
		w := oneOf(r, writers...)
		calls := strings.TrimPrefix(w, "!")
		if (calls == w || !fails) && r.calls.MatchString(calls) {
			return calls
		}
	}
}

// few is a number from 1 to n, small ones more often.
func (r *round) few(n int) int { return 1 + r.rng.IntN(1+r.rng.IntN(n)) }
