package reasons

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Operation is what a vertex is: "exec", "file", "merge", "diff", "image", "git", "http", "local"; "" where its key was not needed.
func (v *Vertex) Operation() string { return value(v.Lines, "operation") }

// Copied is a file operation's copying: from where, of its second input, to where.
type Copied struct{ From, To string }

// Copies are those of a file operation; also is whether it does something else besides. A path that could be read in two ways is "".
func (v *Vertex) Copies() (all []Copied, also bool) {
	for _, a := range values(v.Lines, labelAction) {
		paths, is := strings.CutPrefix(a, "copy ")
		if !is {
			also = true
			continue
		}
		c := Copied{}
		if strings.Count(paths, " to ") == 1 {
			c.From, c.To, _ = strings.Cut(paths, " to ")
		}
		all = append(all, c)
	}
	return all, also
}

// Makes are the directories that a file operation makes; also is whether it does something else besides.
func (v *Vertex) Makes() (all []string, also bool) {
	for _, a := range values(v.Lines, labelAction) {
		if dir, is := strings.CutPrefix(a, "mkdir "); is {
			all = append(all, dir)
		} else {
			also = true
		}
	}
	return all, also
}

// Mounted is a mount of a process.
type Mounted struct {
	At, Type, Selector string
	Input              int // of the vertex; -1 is none
}

// Mounts are those of a process that could be read, and whether that are all.
func (v *Vertex) Mounts() (all []Mounted, whole bool) {
	whole = true
	for _, l := range values(v.Lines, labelMount) {
		at, rest, ok := strings.Cut(l, " from input ")
		i := strings.LastIndexByte(at, ' ')
		number, selector, _ := strings.Cut(rest, " ")
		input, err := strconv.Atoi(number)
		if !ok || i < 0 || err != nil || input < -1 || input >= len(v.Inputs) {
			whole = false
			continue
		}
		all = append(all, Mounted{at[:i], at[i+1:], selector, input})
	}
	return all, whole
}

// User is as whom a process runs; "" is root.
func (v *Vertex) User() string { return value(v.Lines, labelUser) }

// Directory is where a process runs; "" is /.
func (v *Vertex) Directory() string { return value(v.Lines, labelDirectory) }

// FilesOf is the digest of the files that a vertex reads of one of its inputs; "" where it is the whole input.
func (v *Vertex) FilesOf(input int) digest.Digest {
	return digest.Digest(value(v.Lines, filesLine(input)))
}

// Names gives the names in a list in their order; those of directories end with "/".
func (l *List) Names() ([]string, error) {
	all, err := l.entries(&List{})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
