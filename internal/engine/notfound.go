package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/suggest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/terminal"
)

// What a process that failed has not found, by the last lines that it has printed, and why: by the files that it has left. It is a guess, and
// stands below the error, so that whoever knows better can pass it over.

// tailSize is how much of the end of a process's output is kept, in bytes.
const tailSize = 8 << 10

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[max(0, len(p)-tailSize):]...)
	if len(t.text) > 2*tailSize {
		t.text = append(t.text[:0], t.text[len(t.text)-tailSize:]...)
	}
	return len(p), nil
}

// lines are the last lines, n at most, whole but for what is longer than a tail.
func (t *tail) lines(n int) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimRight(string(t.text[max(0, len(t.text)-tailSize):]), "\n")
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	return all[max(0, len(all)-n):]
}

// Lines of output that are looked at, and those that an error has.
const (
	linesSearched = 20
	linesTold     = 10
)

// complaints are what programs say of a file that they do not find: shells and env of a command, and others.
var complaints = sync.OnceValue(func() (c struct{ command, file, behind *regexp.Regexp }) {
	c.command = regexp.MustCompile(`^[^\s:]*(?:sh|env): (?:line )?(?:\d+: )?(?:can't execute )?['"‘]?([^\s:'"’]+)['"’]?: (?:(?:command )?not found|No such file or directory)$`)
	c.file = regexp.MustCompile(`(?i)(?:^|[\s(=:])['"‘` + "`" + `]?(\.{0,2}/[^\s'"’:` + "`" + `]+)['"’` + "`" + `]?: (?:\[Errno 2\] |cannot execute: |bad interpreter: )?(?:no such file or directory|required file not found|not found)\b`)
	c.behind = regexp.MustCompile(`(?i)no such file or directory(?:: |, \w+ )['"‘]([^'"’]+)['"’]`)
	return c
})

// notFound tells what a process has not found; "" is nothing that is known of.
func (x *execution) notFound(err error, lines []string, shown []FailedMount) string {
	f := finder{x: x, shown: shown}
	if errors.Is(err, sandbox.ErrCommandNotFound) {
		return f.command(x.op.Meta.Args[0])
	}
	c := complaints()
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		if m := c.command.FindStringSubmatch(line); m != nil {
			return f.command(m[1])
		}
		m := c.file.FindStringSubmatch(line)
		if m == nil {
			m = c.behind.FindStringSubmatch(line)
		}
		if m != nil {
			if hint := f.file(m[1]); hint != "" {
				return hint
			}
		}
	}
	return ""
}

// finder looks for files where a process has looked for them.
type finder struct {
	x     *execution
	shown []FailedMount
}

// tree is what the process saw at an absolute path, and the path in it; nil where that is in no layers.
func (f *finder) tree(name string) (layer.Tree, string) {
	best, at := -1, ""
	for i, m := range f.x.op.Mounts {
		dest := path.Clean(f.x.dest(m))
		if (name == dest || strings.HasPrefix(name, strings.TrimSuffix(dest, "/")+"/")) && len(dest) > len(at) {
			best, at = i, dest
		}
	}
	if best < 0 || f.shown[best].ID == "" || f.x.op.Mounts[best].MountType != pb.MountType_BIND {
		return nil, ""
	}
	return f.shown[best].Tree(), path.Join(f.x.op.Mounts[best].Selector, strings.TrimPrefix(name, at))
}

// absolute is a path as the process has it.
func (f *finder) absolute(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", f.x.op.Meta.Cwd, name)
}

// find is the file at an absolute path, behind its symbolic links; known says whether it can be looked for.
func (f *finder) find(name string) (e *layer.Entry, known bool) {
	tree, rel := f.tree(name)
	if tree == nil {
		return nil, false
	}
	at, err := layer.Resolve(tree, rel, true)
	if err == nil {
		e, err = tree.Lstat(at)
	}
	if err != nil || e.Whiteout {
		return nil, true
	}
	return e, true
}

// quoted is a name of the step as a message has it.
func quoted(name string) string { return terminal.Short(terminal.Line(name), maxCommand) }

// command tells of a command.
func (f *finder) command(name string) string {
	if strings.Contains(name, "/") {
		abs := f.absolute(name)
		if e, known := f.find(abs); known && e != nil {
			return f.needs(name, e)
		}
		if hint := f.file(name); hint != "" {
			return hint
		}
		return "not found: " + quoted(name)
	}
	var near []string
	for _, dir := range f.searchPath() {
		if e, _ := f.find(path.Join(dir, name)); e != nil {
			return f.needs(path.Join(dir, name), e)
		}
		if tree, rel := f.tree(dir); tree != nil {
			all, _ := f.list(tree, rel)
			near = append(near, all...)
		}
	}
	hint := fmt.Sprintf("not found: %s is in no directory of PATH", quoted(name))
	if meant := like(name, near[:min(len(near), maxSimilar)]); meant != "" {
		hint += fmt.Sprintf(" (did you mean %q?)", quoted(meant))
	}
	return hint
}

// leastLike is how many letters a name has for which others are thought of: nearly any short one is like another.
const leastLike = 4

// like is the name that may be meant by one that is not there; "": none is.
func like(name string, names []string) string {
	if len(name) < leastLike {
		return ""
	}
	if meant, ok := suggest.Search(name, names, false); ok && meant != name {
		return meant
	}
	return ""
}

// list are the names in a directory.
func (f *finder) list(tree layer.Tree, rel string) (names []string, err error) {
	if rel, err = layer.Resolve(tree, rel, true); err != nil {
		return nil, err
	}
	all, err := tree.ReadDir(rel)
	for _, e := range all {
		names = append(names, path.Base(e.Path))
	}
	return names, err
}

// searchPath are the directories in which commands are looked for.
func (f *finder) searchPath() []string {
	for _, kv := range slices.Backward(f.x.spec.Env) {
		if list, is := strings.CutPrefix(kv, "PATH="); is {
			return slices.DeleteFunc(strings.Split(list, ":"), func(dir string) bool { return !path.IsAbs(dir) })
		}
	}
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// file tells of a file. Where a relative path begins nobody knows: of one it is told if there is a name like it.
func (f *finder) file(name string) string {
	abs := f.absolute(name)
	e, known := f.find(abs)
	if e != nil || !known {
		return ""
	}
	hint := "not found: " + quoted(name)
	tree, _ := f.tree(abs)
	dir, rel := f.tree(path.Dir(abs))
	if dir == nil || tree == nil {
		return ""
	}
	if meant := f.near(dir, rel, path.Base(abs)); meant != "" {
		return hint + fmt.Sprintf(" (did you mean %q?)", quoted(path.Join(path.Dir(name), meant)))
	}
	if !path.IsAbs(name) {
		return ""
	}
	return hint
}

// near is the name in a directory that may be meant by one that is not there.
func (f *finder) near(tree layer.Tree, rel, base string) string {
	names, err := f.list(tree, rel)
	if err != nil || len(names) > maxSimilar {
		return ""
	}
	return like(base, names)
}

// needs tells what a program that is there needs and has not; "" is nothing that is known of.
func (f *finder) needs(name string, e *layer.Entry) string {
	head := headOf(e)
	first, _, _ := bytes.Cut(head, []byte("\n"))
	if line, is := bytes.CutPrefix(first, []byte("#!")); is {
		if bytes.HasSuffix(line, []byte("\r")) {
			return fmt.Sprintf("%s is there, but its first line ends in a carriage return (CRLF), so that no program is found that runs it: convert it", quoted(name))
		}
		words := strings.Fields(string(line))
		if len(words) > 0 && f.lacks(words[0]) {
			return fmt.Sprintf("%s is there, but what its first line names is not: %s", quoted(name), quoted(words[0]))
		}
	}
	if loader := loaderOf(head); loader != "" && f.lacks(loader) {
		return fmt.Sprintf("%s is there, but what loads it is not: %s (it is linked for another C library, or another base image)", quoted(name), quoted(loader))
	}
	return ""
}

// lacks reports whether a file is known not to be there.
func (f *finder) lacks(name string) bool {
	e, known := f.find(f.absolute(name))
	return known && e == nil
}

// headSize is how much of a program is read, in bytes.
const headSize = 4 << 10

// headOf is the beginning of a file.
func headOf(e *layer.Entry) []byte {
	if !e.IsRegular() {
		return nil
	}
	r, err := layer.OpenContent(e)
	if err != nil {
		return nil
	}
	defer r.Close()
	head, _ := io.ReadAll(io.LimitReader(r, headSize))
	return head
}

// loaderOf is the program that a dynamic ELF program wants to be loaded by, if that stands in its first bytes; "" otherwise.
func loaderOf(head []byte) string {
	if len(head) < 64 || string(head[:4]) != "\x7fELF" {
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	var at, size, count uint64
	wide := head[4] == 2
	if wide {
		at, size, count = order.Uint64(head[32:]), uint64(order.Uint16(head[54:])), uint64(order.Uint16(head[56:]))
	} else {
		at, size, count = uint64(order.Uint32(head[28:])), uint64(order.Uint16(head[42:])), uint64(order.Uint16(head[44:]))
	}
	for ; count > 0 && size >= 32 && at < uint64(len(head)) && at+size <= uint64(len(head)); count, at = count-1, at+size {
		header := head[at : at+size]
		if order.Uint32(header) != 3 || wide && size < 56 { // PT_INTERP
			continue
		}
		from, length := uint64(order.Uint32(header[4:])), uint64(order.Uint32(header[16:]))
		if wide {
			from, length = order.Uint64(header[8:]), order.Uint64(header[32:])
		}
		if from < uint64(len(head)) && length <= uint64(len(head))-from {
			return string(bytes.TrimRight(head[from:from+length], "\x00"))
		}
		return ""
	}
	return ""
}
