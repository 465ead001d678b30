package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

// TestNestedOneOnOverlay: with one ID, and with a store on an overlay.
func TestNestedOneOnOverlay(t *testing.T) {
	inNested(t, nesting{first: firstNested, count: 1, masked: true, overlay: true}, "^TestLibcontainer$/^(Elsewhere|OneUser|Again|Unwanted)$")
}

// testAgain: what is there when a container of a user starts, as it was copied into it, or was copied up when it ran before, is not the user's.
func testAgain(l *lab) {
	if err := os.Chmod(filepath.Join(l.image, "tmp"), 0o1777); err != nil {
		l.t.Fatal(err)
	}
	theirs := filepath.Join(l.image, "tmp/theirs")
	write(l.t, theirs, "x")
	if err := os.Chmod(theirs, 0o666); err != nil {
		l.t.Fatal(err)
	}
	spec := l.spec("echo more >> /tmp/theirs; touch /tmp/mine; ln -s x /tmp/link")
	spec.User = "1000:1001"
	write(l.t, filepath.Join(spec.Root.Upper, "given"), "x")
	if err := os.Symlink("given", filepath.Join(spec.Root.Upper, "given.link")); err != nil {
		l.t.Fatal(err)
	}
	l.run(spec)
	l.again(spec)
	spec.Args[2] = "touch /tmp/again; stat -c '%n %u:%g' /given /given.link /tmp /tmp/*"
	if got, want := l.run(spec), "/given 0:0\n/given.link 0:0\n/tmp 0:0\n/tmp/again 1000:1001\n/tmp/link 1000:1001\n/tmp/mine 1000:1001\n/tmp/theirs 0:0"; got != want {
		l.t.Errorf("the second process sees %q, want %q", got, want)
	}
	if !oneID() {
		return
	}
	dir := spec.Root.Upper
	tree := layer.OpenDir(dir, layer.DirOptions{Overlay: true, Flavor: layer.User, Records: layer.User.Records(dir)})
	for name, want := range map[string]string{
		"given": "0:0", "given.link": "0:0", "tmp": "0:0", "tmp/theirs": "0:0", "tmp/mine": "1000:1001", "tmp/link": "1000:1001", "tmp/again": "1000:1001",
	} {
		if e, err := tree.Lstat(name); err != nil || fmt.Sprintf("%d:%d", e.UID, e.GID) != want {
			l.t.Errorf("%s is %+v, %v; want %s", name, e, err, want)
		}
	}
}

// testUnwanted: what nobody wants of a process that failed is not brought from memory to the disk.
func testUnwanted(l *lab) {
	for _, wanted := range []bool{true, false} {
		spec := l.spec("echo x > /tmp/left; exit 3")
		asked := 0
		err := l.runner.Run(l.t.Context(), spec, IO{Wanted: func(e *ExitError) bool {
			if asked++; e.Code != 3 {
				l.t.Errorf("asked of the exit code %d", e.Code)
			}
			return wanted
		}})
		if !errors.As(err, new(*ExitError)) || asked != 1 {
			l.t.Errorf("it ended with %v, asked %d times", err, asked)
		}
		left := strings.Join(tree(l.t, spec.Root.Upper), " ")
		if there := strings.Contains(left, "tmp/left"); there != wanted && (wanted || isOverlay(spec.Root.Upper)) {
			l.t.Errorf("wanted: %t, there is %q", wanted, left)
		}
	}
}
