package bake

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/slipway-build/slipway/hack/conformance"
)

// Project is a directory with bake files that are built: a file cases/NAME.txtar, with the sections
//
//	args     the command line
//	differs  the lines in which slipway differs, after the reason
//	PATH     a file
type Project struct {
	Name    string
	Differs []string
	args    []string
	files   []txtar.File
}

// Built is what became of a project. What differs everywhere is not in it (docs/differences.md): the time of an export.
type Built struct {
	Targets  map[string]*conformance.Record `json:"targets"`         // those that become images
	Files    *conformance.Record            `json:"files,omitempty"` // ./out
	Steps    []string                       `json:"steps"`
	Metadata map[string]any                 `json:"metadata"` // of --metadata-file, without what is another one each time
}

// Projects reads the projects in a directory, by name.
func Projects(dir string) (all []*Project, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			return nil, err
		}
		p := &Project{Name: strings.TrimSuffix(filepath.Base(path), ".txtar")}
		for _, f := range archive.Files {
			switch f.Name {
			case "args":
				p.args = strings.Fields(string(f.Data))
			case "differs":
				for line := range strings.Lines(string(f.Data)) {
					if strings.HasPrefix(line, "-") || strings.HasPrefix(line, "+") {
						p.Differs = append(p.Differs, strings.TrimRight(line, "\n"))
					}
				}
			default:
				p.files = append(p.files, f)
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// fixedTime is what every file of a project has for a modification time.
var fixedTime = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

func (p *Project) unpack(dir string) error {
	for _, f := range p.files {
		to := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, f.Data, 0o644); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, fixedTime, fixedTime)
	})
}

// Build lets a program build a project. scratch is an empty directory.
func (p *Project) Build(b Program, scratch string, bases map[string]bool) (*Built, error) {
	dir := filepath.Join(scratch, "project")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := p.unpack(dir); err != nil {
		return nil, err
	}
	images, err := p.images(b, dir)
	if err != nil {
		return nil, err
	}
	args := []string{"--progress=rawjson", "--allow=fs=" + scratch, "--metadata-file=" + filepath.Join(scratch, "metadata.json")}
	for _, name := range images {
		args = append(args, "--set", name+".output=type=oci,dest="+filepath.Join(scratch, name+".tar"))
	}
	_, stderr, exit, err := b.Bake(dir, nil, slices.Concat(args, p.args))
	if err != nil || exit != 0 {
		return nil, fmt.Errorf("building %s: exit status %d, %v: %s", p.Name, exit, err, stderr)
	}
	status, err := conformance.ParseStatus(stderr)
	if err != nil {
		return nil, err
	}
	built := &Built{Targets: map[string]*conformance.Record{}, Steps: withoutNames(status.Names())}
	for _, name := range images {
		r := &conformance.Record{}
		if err := r.ReadOCI(filepath.Join(scratch, name+".tar"), true, bases); err != nil {
			return nil, fmt.Errorf("reading %s of %s: %w", name, p.Name, err)
		}
		r.Layout = withoutCreated(r.Layout)
		built.Targets[name] = r
	}
	if out := filepath.Join(dir, "out"); exists(out) {
		built.Files = &conformance.Record{}
		if err := built.Files.ReadDir(out); err != nil {
			return nil, err
		}
	}
	built.Metadata, err = readMetadata(filepath.Join(scratch, "metadata.json"))
	return built, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

var stepOf = regexp.MustCompile(`^\[.* (\d+/\d+\] )`)

// withoutNames drops the names of the target and the stage that a step is named after: of several targets that share it,
// it is any or all.
func withoutNames(steps []string) (all []string) {
	for _, s := range steps {
		all = append(all, stepOf.ReplaceAllString(s, "[$1"))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// images are the targets whose definition has no output.
func (p *Project) images(b Program, dir string) (names []string, err error) {
	stdout, stderr, exit, err := b.Bake(dir, nil, append([]string{"--print"}, p.args...))
	if err != nil || exit != 0 {
		return nil, fmt.Errorf("reading %s: exit status %d, %v: %s", p.Name, exit, err, stderr)
	}
	var definition struct {
		Target map[string]struct{ Output []any }
	}
	if err := json.Unmarshal(stdout, &definition); err != nil {
		return nil, err
	}
	for name, t := range definition.Target {
		if len(t.Output) == 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

var volatile = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`[0-9a-f]{64}`), "..."},
	{regexp.MustCompile(`"buildx.build.ref": "[^"]*"`), `"buildx.build.ref": "..."`},
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"`), `"now"`},
	{regexp.MustCompile(`"size": \d+`), `"size": 0`},
	{regexp.MustCompile(`/dev/shm/[^" ]*?/project`), "$DIR"},
}

func readMetadata(file string) (map[string]any, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for _, v := range volatile {
		data = v.re.ReplaceAll(data, []byte(v.to))
	}
	var metadata map[string]any
	if err := json.Unmarshal(data, &metadata); err != nil {
		return nil, err
	}
	for _, target := range metadata {
		fields, _ := target.(map[string]any)
		for key, v := range fields {
			if strings.HasPrefix(key, "buildx.build.provenance") {
				withoutSession(v)
			}
		}
	}
	return withoutCreated(metadata).(map[string]any), nil
}

// sessionArgs are the beginnings of arguments that tell of BuildKit's session, and of how its client names contexts in it.
var sessionArgs = []string{"local-sessionid:", "sharedkey:", "frontend.caps", "multi-platform", "input-metadata:", "context:"}

// withoutSession drops from a provenance what docs/differences.md tells of: the request that is told twice, and what is about the
// session. Of an image that a linked target reads, BuildKit has the digest in the name as well.
func withoutSession(provenance any) {
	invocation, _ := provenance.(map[string]any)["invocation"].(map[string]any)
	parameters, _ := invocation["parameters"].(map[string]any)
	delete(parameters, "root")
	delete(parameters, "inputs")
	args, _ := parameters["args"].(map[string]any)
	maps.DeleteFunc(args, func(arg string, _ any) bool {
		return slices.ContainsFunc(sessionArgs, func(prefix string) bool { return strings.HasPrefix(arg, prefix) })
	})
	if len(args) == 0 {
		delete(parameters, "args")
	}
	materials, _ := provenance.(map[string]any)["materials"].([]any)
	for _, m := range materials {
		if m, ok := m.(map[string]any); ok {
			m["uri"] = strings.Replace(fmt.Sprint(m["uri"]), "digest=sha256:...&", "", 1)
		}
	}
}

// withoutCreated drops the time of an export from descriptors.
func withoutCreated(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if a, ok := v["annotations"].(map[string]any); ok {
			if delete(a, "org.opencontainers.image.created"); len(a) == 0 {
				delete(v, "annotations")
			}
		}
		for _, x := range v {
			withoutCreated(x)
		}
	case []any:
		for _, x := range v {
			withoutCreated(x)
		}
	}
	return v
}

// Write keeps what BuildKit built.
func (b *Built) Write(file string) error { return os.WriteFile(file, []byte(b.JSON()), 0o644) }

// JSON is how it is kept.
func (b *Built) JSON() string {
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(b); err != nil {
		panic(err) // there is nothing in it that JSON has not
	}
	return out.String()
}
