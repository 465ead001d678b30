package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one resolution may meet before it counts as a loop.
const maxLinks = 255

// errLinks is ELOOP in BuildKit's words.
var errLinks error = tooManyLinks{}

type tooManyLinks struct{}

func (tooManyLinks) Error() string        { return "too many links" }
func (tooManyLinks) Is(target error) bool { return target == unix.ELOOP }

// Resolve follows the symbolic links of a path as a process whose root is the tree's would:
// absolute links and ".." stay inside. The last component is followed only with follow. Missing
// components are kept (".." takes back the one before it), so the result may not exist. It is
// relative and clean. A component below something that is no directory gives ENOTDIR, a loop
// ELOOP.
func Resolve(t Tree, name string, follow bool) (string, error) {
	var done []string // resolved components, all real directories or missing
	todo := components(name)
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == ".." {
			if len(done) > 0 {
				done = done[:len(done)-1]
			}
			continue
		}
		cur := strings.Join(append(done, c), "/")
		if len(todo) == 0 && !follow {
			return cur, nil
		}
		e, err := t.Lstat(cur)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			done = append(done, c)
		case err != nil:
			return "", fmt.Errorf("resolving %q: %w", name, err)
		case e.IsSymlink():
			if links++; links > maxLinks {
				return "", pathError("resolve", name, errLinks)
			}
			if strings.HasPrefix(e.Link, "/") {
				done = nil
			}
			todo = append(components(e.Link), todo...)
		case !e.IsDir() && len(todo) > 0:
			return "", pathError("lstat", "/"+cur+"/"+todo[0], unix.ENOTDIR)
		default:
			done = append(done, c)
		}
	}
	if len(done) == 0 {
		return ".", nil
	}
	return strings.Join(done, "/"), nil
}

// components splits a path, dropping empty and "." components but keeping "..": what that means
// is only known when the component before it has been resolved.
func components(name string) []string {
	var out []string
	for _, c := range strings.Split(name, "/") {
		if c != "" && c != "." {
			out = append(out, c)
		}
	}
	return out
}

// Open opens the regular file at a path, whose symbolic links are followed inside of the tree.
func Open(t Tree, name string) (io.ReadCloser, error) {
	p, err := Resolve(t, name, true)
	if err != nil {
		return nil, err
	}
	e, err := t.Lstat(p)
	if err != nil {
		return nil, err
	}
	if !e.IsRegular() {
		return nil, pathError("open", name, errors.New("is not a regular file"))
	}
	return OpenContent(e)
}

// OpenContent opens the content of a regular file's entry, also of an empty one.
func OpenContent(e *Entry) (io.ReadCloser, error) {
	if e.Content == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return e.Content.Open()
}

// ReadFile reads the whole regular file at a path, whose symbolic links are followed.
func ReadFile(t Tree, name string) ([]byte, error) {
	f, err := Open(t, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Walk calls fn for the object at a path, which is not followed, and everything below it, parents
// first and siblings in byte order. When fn returns fs.SkipDir for a directory, what is below is
// left out; fs.SkipAll ends the walk without an error.
func Walk(t Tree, name string, fn func(*Entry) error) error {
	e, err := t.Lstat(name)
	if err != nil {
		return err
	}
	if err = walk(t, e, fn); err == fs.SkipAll {
		return nil
	}
	return err
}

func walk(t Tree, e *Entry, fn func(*Entry) error) error {
	if err := fn(e); err != nil {
		if err == fs.SkipDir && e.IsDir() {
			return nil
		}
		return err
	}
	if !e.IsDir() {
		return nil
	}
	entries, err := t.ReadDir(e.Path)
	if err != nil {
		return err
	}
	for _, c := range entries {
		if err := walk(t, c, fn); err != nil {
			return err
		}
	}
	return nil
}
