package fileop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices and files of other owners")
	}
}

func shmDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-fileop-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// The names are few, so that sources, destinations and patterns meet.
var sampleNames = []string{"a", "b", "c", "ab", "x.go", "y.txt", "link"}

// fill makes a random tree in a directory.
func fill(t testing.TB, r *rand.Rand, dir string, depth int, files *[]string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range sampleNames {
		if r.Intn(2) == 0 {
			continue
		}
		p := filepath.Join(dir, n)
		switch k := r.Intn(10); {
		case k < 4 && depth < 3:
			must(os.Mkdir(p, 0o755))
			fill(t, r, p, depth+1, files)
		case k < 7:
			must(os.WriteFile(p, []byte(fmt.Sprintf("%s %d", n, r.Intn(3))), 0o644))
			*files = append(*files, p)
		case k == 7:
			must(os.Symlink([]string{"a", "/b", "../c", "/a/b", "nowhere", "/"}[r.Intn(6)], p))
		case k == 8 && len(*files) > 0:
			must(os.Link((*files)[r.Intn(len(*files))], p))
		default:
			must(unix.Mknod(p, unix.S_IFIFO|0o600, 0))
		}
		if fi, err := os.Lstat(p); err == nil && fi.Mode()&os.ModeSymlink == 0 {
			must(os.Lchown(p, r.Intn(3)*1000, r.Intn(2)*50))
			must(unix.Chmod(p, uint32(0o400|r.Intn(0o10000))))
			if fi.IsDir() || fi.Mode().IsRegular() {
				if r.Intn(2) == 0 {
					must(unix.Setxattr(p, "user."+pick(r, "a", "b"), []byte(n), 0))
				}
			}
		}
		ts := []unix.Timespec{{Sec: 1e9 + int64(r.Intn(1000))}, {Sec: 1e9 + int64(r.Intn(1000))}}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func pick(r *rand.Rand, from ...string) string { return from[r.Intn(len(from))] }

func randomCopy(r *rand.Rand) *pb.FileActionCopy {
	c := &pb.FileActionCopy{
		Src:                            pick(r, "/", "/a", "/b", "a/b", "/*", "/a*", "/a/*", "/[a-b]", "/x.go", "/link", "/link/a", "/nothing", "/a/", "/a/.", "/*/b", "no*"),
		Dest:                           pick(r, "/", "/a", "/a/", "/new", "/new/", "/a/b", "/link", "/link/x/", "/new/deep/er", "/x.go", "/b"),
		Mode:                           -1,
		Timestamp:                      -1,
		FollowSymlink:                  r.Intn(2) == 0,
		DirCopyContents:                r.Intn(2) == 0,
		CreateDestPath:                 r.Intn(4) != 0,
		AllowWildcard:                  r.Intn(2) == 0,
		AllowEmptyWildcard:             r.Intn(2) == 0,
		AlwaysReplaceExistingDestPaths: r.Intn(4) == 0,
	}
	if r.Intn(2) == 0 { // most of the above fails
		c.Src, c.Dest, c.CreateDestPath = pick(r, "/", "/", "/*", "/a", "/b/"), pick(r, "/", "/a", "/new/"), true
	}
	if r.Intn(3) == 0 {
		c.Owner = &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 77}}}
	}
	switch r.Intn(5) {
	case 0:
		c.Mode = int32(pick(r, "ab")[0])
	case 1:
		c.ModeStr = pick(r, "u+x", "go-rwx", "a=rX", "u=rwX,g=s,o=t")
	}
	if r.Intn(3) == 0 {
		c.Timestamp = 1234567890 * 1e9
	}
	if r.Intn(3) == 0 {
		c.IncludePatterns = []string{pick(r, "a", "*/b", "**/*.go", "a/b/c", "*/*/*", "b*")}
	}
	if r.Intn(3) == 0 {
		c.ExcludePatterns = [][]string{{"a"}, {"**/b"}, {"*", "!a"}, {"a", "!a/b"}, {"**", "!**/x.go"}}[r.Intn(5)]
	}
	return c
}

// reference does a copy with the library that BuildKit does it with, on a real directory.
func reference(src, dest string, a *pb.FileActionCopy) error {
	if !a.CreateDestPath {
		p, err := fs.RootPath(dest, filepath.Join("/", a.Dest))
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Dir(p)); err != nil {
			return err
		}
	}
	opt := func(ci *fscopy.CopyInfo) {
		ci.IncludePatterns, ci.ExcludePatterns = a.IncludePatterns, a.ExcludePatterns
		ci.Utime = timestamp(a.Timestamp)
		ci.Chown = func(old *fscopy.User) (*fscopy.User, error) { return old, nil }
		if a.Owner != nil {
			ci.Chown = func(*fscopy.User) (*fscopy.User, error) { return &fscopy.User{UID: 77, GID: 77}, nil }
		}
		if a.ModeStr != "" {
			ci.ModeStr = a.ModeStr
		} else if m := int(a.Mode); m != -1 {
			ci.Mode = &m
		}
		ci.CopyDirContents, ci.FollowLinks = a.DirCopyContents, a.FollowSymlink
		ci.AlwaysReplaceExistingDestPaths = a.AlwaysReplaceExistingDestPaths
	}
	srcs := []string{cleanPath(a.Src)}
	if a.AllowWildcard {
		var err error
		if srcs, err = fscopy.ResolveWildcards(src, srcs[0], a.FollowSymlink); err != nil {
			return err
		}
		if len(srcs) == 0 && !a.AllowEmptyWildcard {
			return fmt.Errorf("not found")
		}
	}
	for _, s := range srcs {
		if len(a.IncludePatterns) > 0 && isFile(src, s, a.FollowSymlink) {
			continue // it copies the file, though the patterns are for what is below it
		}
		if err := fscopy.Copy(context.Background(), src, s, dest, cleanPath(a.Dest), opt); err != nil {
			return err
		}
	}
	return nil
}

func isFile(root, name string, follow bool) bool {
	dir, base := filepath.Split(filepath.Clean("/" + name))
	if follow {
		dir, base = filepath.Join(dir, base), ""
	}
	p, err := fs.RootPath(root, dir)
	if err != nil {
		return false
	}
	fi, err := os.Lstat(filepath.Join(p, base))
	return err == nil && !fi.IsDir()
}

// describe lists a tree without what no copy decides on: times of directories that came about on
// the way are those of the test.
func describe(t testing.TB, tree layer.Tree, since time.Time) string {
	t.Helper()
	var b strings.Builder
	links := map[[2]uint64]string{}
	err := layer.Walk(tree, ".", func(e *layer.Entry) error {
		if e.Path == "." {
			return nil
		}
		when := fmt.Sprint(e.ModTime.Unix())
		if !e.ModTime.Before(since.Add(-time.Minute)) || e.IsDir() {
			when = "-"
		}
		fmt.Fprintf(&b, "%s %o %d:%d %d %s %q", e.Path, e.Mode, e.UID, e.GID, e.Size, when, e.Link)
		if e.Nlink > 1 {
			id := [2]uint64{e.Dev, e.Inode}
			if links[id] == "" {
				links[id] = e.Path
			} else {
				fmt.Fprintf(&b, " same as %s", links[id])
			}
		}
		if len(e.Xattrs) > 0 {
			fmt.Fprintf(&b, " %v", e.Xattrs)
		}
		if e.IsRegular() {
			r, err := layer.OpenContent(e)
			if err != nil {
				return err
			}
			defer r.Close()
			data, _ := io.ReadAll(r)
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// difference gives the lines that only one of two texts has.
func difference(got, want string) string {
	var b strings.Builder
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, l := range g {
		if !slices.Contains(w, l) {
			b.WriteString("got  " + l + "\n")
		}
	}
	for _, l := range w {
		if !slices.Contains(g, l) {
			b.WriteString("want " + l + "\n")
		}
	}
	return b.String()
}

// write puts a plan into a directory.
func write(t testing.TB, p *Plan) string {
	t.Helper()
	dir := shmDir(t)
	w, err := layer.NewDirWriter(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WriteTo(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func tarOfPlan(t testing.TB, p *Plan) []byte {
	t.Helper()
	return tarOf(t, p.WriteTo)
}

func tarOfDir(t testing.TB, dir string) []byte {
	t.Helper()
	return tarOf(t, func(s layer.Sink) error { return layer.WalkLayer(dir, s) })
}

func tarOf(t testing.TB, fill func(layer.Sink) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w := layer.NewTarWriter(&b)
	if err := fill(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A copy gives the same files as the one of fsutil, which BuildKit uses, or fails where that does.
func TestCopyLikeFsutil(t *testing.T) { copyLikeFsutil(t, 600) }

func copyLikeFsutil(t *testing.T, times int64) {
	needRoot(t)
	if testing.Short() {
		times /= 10
	}
	fscopy.UmaskIsZero = true // as buildkitd has it
	defer unix.Umask(unix.Umask(0))
	failed, copied := 0, 0
	for seed := range times {
		r := rand.New(rand.NewSource(seed))
		root := shmDir(t)
		src, base, want := path.Join(root, "src"), path.Join(root, "base"), path.Join(root, "want")
		var files []string
		for _, d := range []string{src, base} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
			files = nil
			fill(t, r, d, 0, &files)
		}
		if out, err := exec.Command("cp", "-a", base, want).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		c := randomCopy(r)
		since := time.Now()
		wantErr := reference(src, want, c)

		trees := []layer.Tree{layer.OpenDir(base, layer.DirOptions{}), layer.OpenDir(src, layer.DirOptions{})}
		out, err := Make(context.Background(), &pb.FileOp{Actions: []*pb.FileAction{{
			Input: 0, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: c},
		}}}, trees, Options{})
		if err == nil && wantErr != nil && strings.HasPrefix(wantErr.Error(), "failed to stat "+want) && errors.Is(wantErr, unix.ENOTDIR) {
			// It looks below a file of the destination for what is not selected anyway.
			os.RemoveAll(root)
			continue
		}
		if fi, err := os.Lstat(want); err != nil || !fi.IsDir() {
			wantErr = errors.New("replaces the root itself")
		}
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("seed %d: %v\nfails with %v, want %v\nsource\n%sbase\n%s", seed, c, err, wantErr,
				describe(t, trees[1], since), describe(t, trees[0], since))
		}
		if err != nil {
			failed++
			os.RemoveAll(root)
			continue
		}
		copied++
		plan := out[0].Plans[0]
		wanted := describe(t, layer.OpenDir(want, layer.DirOptions{}), since)
		if got := describe(t, plan, since); got != wanted {
			t.Fatalf("seed %d: %v\n%s", seed, c, difference(got, wanted))
		}
		dir := write(t, plan)
		if !bytes.Equal(tarOfPlan(t, plan), tarOfDir(t, dir)) {
			t.Fatalf("seed %d: %v: the plan's tar is not that of its directory", seed, c)
		}
		upper := layer.OpenDir(dir, layer.DirOptions{Overlay: true})
		if got := describe(t, layer.Merged([]layer.Tree{trees[0], upper}), since); got != wanted {
			t.Fatalf("seed %d: %v: layer over base\n%s", seed, c, difference(got, wanted))
		}
		os.RemoveAll(root)
	}
	t.Logf("%d copies, %d failures", copied, failed)
}
