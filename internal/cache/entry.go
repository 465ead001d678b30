package cache

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

// Entry is a value of --cache-to or --cache-from: "type=TYPE,KEY=VALUE,...".
type Entry struct {
	Type  string
	Attrs map[string]string
	// Directory gives the directories of type=local by their paths, where they are not this machine's.
	Directory func(path string) Blobs
	// Foreign is one of somebody else's, who says all of it: this process' environment is not looked at, as what it has to be
	// known by would be shown wherever the entry says that the cache is.
	Foreign bool
}

// secrets finds the values of attributes that nobody may see, whole fields where they are quoted.
var secrets = sync.OnceValue(func() *regexp.Regexp {
	const names = `(?:token|ghtoken|secret_access_key|session_token)=`
	return regexp.MustCompile(`(?i)("` + names + `)(?:[^"]|"")*|((?:^|[,=:\s])` + names + `)[^,]*`)
})

// Redact takes the secrets out of what was given as an entry, or of an argument with one in it.
func Redact(s string) string {
	if !strings.Contains(s, "=") {
		return s
	}
	return secrets().ReplaceAllString(s, "${1}${2}...")
}

// To says where a cache is exported to, and how.
type To struct {
	Type string
	// Max exports all results of the build, not only what the result's layers stand on.
	Max      bool
	Encoding layer.Encoding
	// IgnoreError lets the build succeed when the export fails.
	IgnoreError bool

	dockerTypes bool // layers have Docker's media types
	parallel    int  // how many layers are written at the same time; 0 for as many as usual
	carries     carries
	location    location
}

// From says what to import a cache from.
type From struct {
	Type     string
	carries  carries
	location location
	wait     time.Duration // for how long a build waits for steps of others, with mode=keys
}

// Name is how messages call it.
func (f *From) Name() string { return f.location.name() }

// ParseTo reads where to export to. Attributes that it does not know are left alone, as are values
// of mode and ignore-error that BuildKit skips.
func ParseTo(e Entry) (*To, error) {
	k := kinds[e.Type]
	if k.to == nil {
		return nil, errType("exporter", e.Type)
	}
	t := &To{Type: e.Type, Max: e.Attrs["mode"] == "max"}
	t.IgnoreError, _ = strconv.ParseBool(e.Attrs["ignore-error"])
	t.Encoding.Compression = layer.Gzip
	var err error
	if t.location, err = k.to(t, e.Attrs); err != nil {
		return nil, err
	}
	if t.location = e.elsewhere(t.location); e.Attrs["mode"] == modeKeys {
		t.Max = true
		if t.location, err = asKeys(t.location); err != nil {
			return nil, err
		}
	}
	t.carries, err = parseCarries(e.Attrs, t.location)
	return t, err
}

// Keys reports whether results are written one by one: see [To.ExportKeys].
func (t *To) Keys() bool {
	_, is := t.location.(keysAt)
	return is
}

func (t *To) parseEncoding(attrs map[string]string) error {
	if err := parseBools(attrs, attrBool{"force-compression", "true", &t.Encoding.Force}); err != nil {
		return err
	}
	switch v, given := attrs["compression"]; {
	case !given:
	case v == "gzip", v == "zstd":
		t.Encoding.Compression = layer.Compression(v)
	case v == "uncompressed":
		t.Encoding.Compression = layer.Uncompressed
	default:
		return fmt.Errorf("unsupported compression type %s (want gzip, zstd or uncompressed)", v)
	}
	if v, ok := attrs["compression-level"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("non-integer value %s specified for compression-level: %w", v, err)
		}
		t.Encoding, err = t.Encoding.WithLevel(n)
		return err
	}
	return t.Encoding.Check()
}

// ParseFrom reads what to import.
func ParseFrom(e Entry) (*From, error) {
	if e.Type == TypeInline {
		return nil, errors.New("unknown cache importer: inline (name the image that has the cache: --cache-from IMAGE)")
	}
	k := kinds[e.Type]
	if k.from == nil {
		return nil, errType("importer", e.Type)
	}
	at, err := k.from(e.Attrs)
	if err != nil {
		return nil, err
	}
	f := &From{Type: e.Type, location: e.elsewhere(at)}
	if e.Attrs["mode"] == modeKeys {
		if f.location, err = asKeys(f.location); err != nil {
			return nil, err
		}
		if f.wait, err = parseWait(e.Attrs); err != nil {
			return nil, err
		}
	}
	f.carries, err = parseCarries(e.Attrs, f.location)
	return f, err
}

// ParseFroms reads all values of --cache-from. Caches that there are none of in this environment are left out.
func ParseFroms(entries []Entry) ([]*From, error) {
	var all []*From
	for _, e := range entries {
		e, missing := e.completed()
		switch {
		case missing != "" && e.Foreign:
			return nil, fmt.Errorf("failed to configure %s cache importer: %s", e.Type, missing)
		case missing != "":
			continue
		}
		f, err := ParseFrom(e)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// ParseTos reads all values of --cache-to. Naming the same place twice is an error; inline caches
// are one. Caches that there are none of in this environment are left out.
func ParseTos(entries []Entry) ([]*To, error) {
	var all []*To
	seen := map[string]bool{}
	var twice []string
	for _, e := range entries {
		e, missing := e.completed()
		switch {
		case missing != "" && e.Foreign:
			return nil, fmt.Errorf("failed to configure %s cache exporter: %s", e.Type, missing)
		case missing != "":
			continue
		}
		key := e.key()
		if seen[key] && e.Type != TypeInline {
			twice = append(twice, e.Type)
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		t, err := ParseTo(e)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	if len(twice) > 0 {
		return nil, fmt.Errorf("duplicate cache exports %s", twice)
	}
	return all, nil
}

// key tells entries apart.
func (e Entry) key() string {
	switch {
	case e.Type == TypeInline:
		return e.Type
	case e.Type == TypeRegistry && e.Attrs["mode"] == modeKeys:
		return e.Attrs["ref"] + " " + modeKeys
	case e.Type == TypeRegistry && e.Attrs["ref"] != "":
		return e.Attrs["ref"]
	}
	var b strings.Builder
	b.WriteString(e.Type)
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		fmt.Fprintf(&b, "\n%s=%s", k, e.Attrs[k])
	}
	return b.String()
}
