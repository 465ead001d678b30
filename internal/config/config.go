// Package config reads what users and administrators set once instead of giving flags: TOML files.
//
// A file of the user's goes over the system's, key by key. Keys that nobody knows are warnings with their lines, so that
// an older program reads a newer file. Nothing is read, and no parser is used, where there is no file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/slipway-build/slipway/internal/isolation"
)

// System is the file of the machine's administrator.
const System = "/etc/slipway/slipway.toml"

// Settings are what files say. What they do not say is nil.
type Settings struct {
	Flags
	Build Build `toml:"build"`
	Run   Run   `toml:"run"`

	GC            *bool  `toml:"gc"`
	ReservedSpace *Text  `toml:"reservedSpace"`
	MaxUsedSpace  *Text  `toml:"maxUsedSpace"`
	MinFreeSpace  *Text  `toml:"minFreeSpace"`
	Policies      []Rule `toml:"gcpolicy"`

	History *History `toml:"history"`

	Warm *Warm `toml:"warm"`
}

// Warm says which directories steps find as builds before have left them, where builds are warm.
type Warm struct {
	Paths    []string `toml:"paths"`    // besides those of tools that are known: absolute, or below "~"
	Projects []string `toml:"projects"` // directories: builds of contexts in them are warm
}

// History says which records of builds are kept, in BuildKit's words.
type History struct {
	MaxAge     *Duration `toml:"maxAge"`
	MaxEntries *int      `toml:"maxEntries"`
	MaxSize    *Text     `toml:"maxSize"`
}

// Flags are those of all commands, by their names.
type Flags struct {
	Root       any `toml:"root"`
	StoreLimit any `toml:"store-limit"`
	CertsDir   any `toml:"certs-dir"`
	Runtime    any `toml:"runtime"`
	WorkerNet  any `toml:"worker-net"`
	Isolation  any `toml:"isolation"`
	Debug      any `toml:"debug"`
}

// Build are flags of build, by their names.
type Build struct {
	AddHost      any `toml:"add-host"`
	BuildArg     any `toml:"build-arg"`
	CacheFrom    any `toml:"cache-from"`
	CacheTo      any `toml:"cache-to"`
	CgroupParent any `toml:"cgroup-parent"`
	Label        any `toml:"label"`
	Memory       any `toml:"memory"`
	Network      any `toml:"network"`
	OnFailure    any `toml:"on-failure"`
	OnImage      any `toml:"on-image"`
	PidsLimit    any `toml:"pids-limit"`
	Progress     any `toml:"progress"`
	Provenance   any `toml:"provenance"`
	Pull         any `toml:"pull"`
	Quiet        any `toml:"quiet"`
	SBOM         any `toml:"sbom"`
	ShmSize      any `toml:"shm-size"`
	Ulimit       any `toml:"ulimit"`
	UserNS       any `toml:"userns"`
	Warm         any `toml:"warm"`
}

// Steps are those that say how steps run, whoever asks for the build. The others are about what one command wants.
func (b *Build) Steps() Build {
	return Build{
		AddHost: b.AddHost, CgroupParent: b.CgroupParent, Memory: b.Memory, Network: b.Network,
		PidsLimit: b.PidsLimit, ShmSize: b.ShmSize, Ulimit: b.Ulimit, UserNS: b.UserNS,
	}
}

// Run are flags of run and create, by their names.
type Run struct {
	CgroupParent any `toml:"cgroup-parent"`
	Memory       any `toml:"memory"`
	Network      any `toml:"network"`
	PidsLimit    any `toml:"pids-limit"`
	ShmSize      any `toml:"shm-size"`
	Ulimit       any `toml:"ulimit"`
	UserNS       any `toml:"userns"`
}

// Rule is a policy of the build cache, in BuildKit's words.
type Rule struct {
	All           bool     `toml:"all"`
	KeepDuration  Duration `toml:"keepDuration"`
	ReservedSpace Text     `toml:"reservedSpace"`
	MaxUsedSpace  Text     `toml:"maxUsedSpace"`
	MinFreeSpace  Text     `toml:"minFreeSpace"`
	Filters       []string `toml:"filters"`
}

// Text is a value as it is written, a number too.
type Text string

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Text) UnmarshalText(text []byte) error {
	*t = Text(text)
	return nil
}

// Duration is "48h", or a number of seconds.
type Duration struct{ time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	if n, err := strconv.ParseInt(string(text), 10, 32); err == nil && n >= 0 {
		d.Duration = time.Duration(n) * time.Second
		return nil
	}
	n, err := time.ParseDuration(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("invalid duration %q: want one as 48h, or seconds", text)
	}
	d.Duration = n
	return nil
}

// UserFile is where a user's own file is; empty where nobody knows.
func UserFile() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "slipway", "slipway.toml")
}

// File is a file of settings as it was read.
type File struct {
	Path string
	Data []byte
}

// Load reads the file that a user names, and it alone; without a name, the system's and the user's where they are there.
func Load(named string) (all []File, err error) {
	if named != "" {
		f, err := load(named, false)
		return []File{f}, err
	}
	for _, path := range []string{System, UserFile()} {
		if path == "" {
			continue
		}
		f, err := load(path, true)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// Parse puts files one over the other. It is nil when there is none. warn is told of keys that nobody knows.
func Parse(files []File, warn func(string)) (all *Settings, err error) {
	for _, f := range files {
		s, err := parse(f.Path, f.Data, warn)
		if err != nil {
			return nil, err
		}
		if all != nil {
			over(reflect.ValueOf(all).Elem(), reflect.ValueOf(s).Elem())
			continue
		}
		all = s
	}
	return all, nil
}

// over sets in dst what src says.
func over(dst, src reflect.Value) {
	for i := range src.NumField() {
		switch f := src.Field(i); {
		case f.Kind() == reflect.Struct:
			over(dst.Field(i), f)
		case !f.IsZero():
			dst.Field(i).Set(f)
		}
	}
}

// maxSize is how long a file may be.
const maxSize = 1 << 20

// load reads a file. One that was not named must be such that nobody else can write it: who may, would decide what
// runs as this user.
func load(path string, guarded bool) (file File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading the configuration: %w", err)
		}
	}()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return file, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return file, err
	}
	if guarded {
		dir, err := os.Stat(filepath.Dir(path))
		if err == nil {
			err = errors.Join(others(filepath.Dir(path), dir), others(path, fi))
		}
		if err != nil {
			return file, err
		}
	}
	if guarded && !fi.Mode().IsRegular() || fi.IsDir() {
		return file, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s is longer than 1 MiB", path)
	}
	return File{path, data}, err
}

// others reports an error when somebody else than this user and root can write a file.
func others(path string, fi os.FileInfo) error {
	st := fi.Sys().(*syscall.Stat_t)
	if !isolation.Trusted().User(st.Uid) {
		return fmt.Errorf("%s belongs to user %d, who could decide by it what is run as user %d: give it to root, or name a file with --config-file", path, st.Uid, os.Geteuid())
	}
	if fi.Mode().Perm()&0o022 != 0 && !(fi.Mode().Perm()&0o002 == 0 && (int(st.Gid) == os.Getegid() || st.Gid == 0)) {
		return fmt.Errorf("other users may write to %s (its mode is %04o), and decide by it what is run as user %d: take that away with chmod go-w", path, fi.Mode().Perm(), os.Geteuid())
	}
	return nil
}

func parse(path string, data []byte, warn func(string)) (*Settings, error) {
	s := &Settings{}
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(s)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			warn(fmt.Sprintf("%s:%d: unknown key %q", path, line, strings.Join(e.Key(), ".")))
		}
		err = nil
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, column := wrong.Position()
		return nil, fmt.Errorf("reading the configuration: %s:%d:%d: %s", path, line, column, strings.TrimPrefix(wrong.Error(), "toml: "))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %s: %w", path, err)
	}
	return s, nil
}

// Each calls f for each flag that a group of them, Flags, Build or Run, sets, with its values as they would be given.
func Each(group any, f func(name string, values []string) error) error {
	v := reflect.ValueOf(group)
	for i := range v.NumField() {
		if v.Field(i).IsNil() {
			continue
		}
		name := v.Type().Field(i).Tag.Get("toml")
		var values []string
		list, isList := v.Field(i).Interface().([]any)
		if !isList {
			list = []any{v.Field(i).Interface()}
		}
		for _, item := range list {
			switch item.(type) {
			case string, bool, int64, float64:
				values = append(values, fmt.Sprint(item))
			default:
				return fmt.Errorf("reading the configuration: %s has to be a value, or a list of values", name)
			}
		}
		if err := f(name, values); err != nil {
			return err
		}
	}
	return nil
}
