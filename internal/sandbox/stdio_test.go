package sandbox

import (
	"io"
	"os"
	"testing"

	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

func TestReceiveFile(t *testing.T) {
	for name, files := range map[string]int{"one": 1, "none": 0, "two": 2, "three": 3} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := utils.NewSockPair("test")
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var fds []int
			for range files {
				fds = append(fds, int(w.Fd()))
			}
			if files > 0 {
				err = unix.Sendmsg(int(theirs.Fd()), []byte("name"), unix.UnixRights(fds...), nil, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			theirs.Close()
			w.Close()
			got, err := receiveFile(int(ours.Fd()))
			if (err == nil) != (files == 1) {
				t.Errorf("%d files: %v", files, err)
			}
			if err == nil {
				if _, err := got.WriteString("through"); err != nil {
					t.Error(err)
				}
				got.Close()
			}
			// The pipe ends when nobody has its other end: nothing that came is left open.
			if data, err := io.ReadAll(r); err != nil || (string(data) == "through") != (files == 1) {
				t.Errorf("read %q, %v", data, err)
			}
		})
	}
}
