// Package builders remembers the names that users give to builders.
//
// There is one builder on this machine, which is always there and is called "default". What `buildx create` makes is another name of it, with
// what was said of it: nothing runs for it, and whoever builds by one of the names shares the cache with all others. A name of the driver
// kubernetes is that of a place in a cluster, where builds are carried out.
//
// # Structure
//
// The names are in one file of the user's. Whoever changes it holds a lock of its directory and renames a whole new file
// over it, so that readers, who lock nothing, see the one or the other, and no file stays beside it. A file that is damaged
// is one without names ([ErrDamaged]); the next change replaces it.
package builders

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/slipway-build/slipway/internal/atomicfile"
)

// Default is the name that the builder has always.
const Default = "default"

// ErrDamaged is a file of names that cannot be read as one.
var ErrDamaged = errors.New("damaged")

// Builder is a name that was given, with what was said of it.
type Builder struct {
	Name       string            `json:"name"`
	Driver     string            `json:"driver"`
	Node       string            `json:"node"`
	Endpoint   string            `json:"endpoint,omitempty"`  // of the driver kubernetes: kubernetes://CONTEXT/NAMESPACE; "" is this machine
	Platforms  []string          `json:"platforms,omitempty"` // that --platform named
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	Flags      []string          `json:"flags,omitempty"`      // of buildkitd
	Registries bool              `json:"registries,omitempty"` // there are settings of registries for it
	MaxRuns    int               `json:"maxRuns,omitempty"`    // how many steps may run at the same time; 0 is any number
}

// List is what the file has: builders in the order of their names, none of which is Default.
type List struct {
	Current  string    `json:"current,omitempty"` // the name that is used where none is given; empty is Default
	Builders []Builder `json:"builders,omitempty"`
	// Contexts are names of Docker's contexts, beside Default. All of them are this machine. Context is the one in use, empty is Default.
	Contexts []string `json:"contexts,omitempty"`
	Context  string   `json:"context,omitempty"`
}

var namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]*$`) })

// CheckName refuses what buildx does not take as a name.
func CheckName(name string) error {
	if !namePattern().MatchString(name) || len(name) > 128 {
		return fmt.Errorf("invalid name %s, name needs to start with a letter and may not contain symbols, except ._-", name)
	}
	return nil
}

// Find returns the builder of a name, in any case of its letters, or nil.
func (l *List) Find(name string) *Builder {
	i := slices.IndexFunc(l.Builders, func(b Builder) bool { return strings.EqualFold(b.Name, name) })
	if i < 0 {
		return nil
	}
	return &l.Builders[i]
}

// Put adds a builder, or replaces the one of its name.
func (l *List) Put(b Builder) {
	l.Remove(b.Name)
	at, _ := slices.BinarySearchFunc(l.Builders, b.Name, func(b Builder, name string) int { return strings.Compare(b.Name, name) })
	l.Builders = slices.Insert(l.Builders, at, b)
}

// Remove takes a builder away. Who used it uses Default from now on.
func (l *List) Remove(name string) {
	l.Builders = slices.DeleteFunc(l.Builders, func(b Builder) bool { return strings.EqualFold(b.Name, name) })
}

// CurrentBuilder is the builder that is used where none is named; nil is Default.
func (l *List) CurrentBuilder() *Builder { return l.Find(l.Current) }

// Named is the builder of a name; without a name the current one. The default one has a driver of Docker's too.
func (l *List) Named(name string) (Builder, error) {
	b := l.CurrentBuilder()
	if name != "" {
		b = l.Find(name)
	}
	switch {
	case b != nil:
		return *b, nil
	case name == "" || name == Default:
		return Builder{Name: Default, Driver: "docker", Node: Default}, nil
	}
	return Builder{}, fmt.Errorf("no builder %q found", name)
}

// maxSize is how long the file may be: it is read into memory.
const maxSize = 1 << 20

// Read reads the file. One that is not there has no names; neither has one that is damaged, which is an ErrDamaged.
func Read(path string) (List, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return List{}, nil
	}
	if err != nil {
		return List{}, fmt.Errorf("reading the names of builders: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return List{}, errors.Join(err, fmt.Errorf("reading the names of builders: %s is %w: it is no regular file", path, ErrDamaged))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return List{}, fmt.Errorf("reading the names of builders: %w", err)
	}
	var l List
	if err := json.Unmarshal(data, &l); err != nil || len(data) > maxSize {
		return List{}, fmt.Errorf("reading the names of builders: %s is %w, and read as if it had none", path, ErrDamaged)
	}
	l.sane()
	return l, nil
}

// sane drops what no change of a list leaves in it.
func (l *List) sane() {
	all := l.Builders
	l.Builders = nil
	for _, b := range all {
		if CheckName(b.Name) == nil && b.Name != Default && l.Find(b.Name) == nil {
			l.Put(b)
		}
	}
	l.Contexts = slices.DeleteFunc(l.Contexts, func(c string) bool { return CheckName(c) != nil || c == Default })
}

// Change changes the file, making it and its directory where they are not there. An error of change leaves it as it is.
func Change(path string, change func(*List) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing the names of builders: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("writing the names of builders: %w", err)
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return fmt.Errorf("writing the names of builders: locking %s: %w", dir, err)
	}
	l, err := Read(path)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if err := change(&l); err != nil {
		return err
	}
	if err := write(path, &l); err != nil {
		return fmt.Errorf("writing the names of builders: %w", err)
	}
	return nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// write replaces the file. The new one has always the same name until it is complete, and the lock is held: what a killed
// process leaves is replaced by the next one.
func write(path string, l *List) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, atomicfile.Options{Temporary: path + ".new", Mode: 0o600, Sync: true}, func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return err
	})
}
