package layering

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/slipway-build/slipway/"

// tiers are slipway's packages from the bottom up, a name standing for the packages below it
// too. A package imports only from tiers below its own, or from below its own name.
var tiers = [][]string{
	{"internal/hostfiles", "internal/atomicfile", "internal/isolation", "internal/heap"},
	{"internal/tools", "internal/longlife", "internal/inflight", "internal/meter", "internal/processes", "internal/filetrace", "internal/gunzip", "internal/libdeflate", "internal/overlay", "internal/secrets", "internal/terminal", "internal/outbound", "internal/network", "internal/config", "internal/builders", "internal/kube", "internal/stages"},
	{"internal/layer", "internal/graph", "internal/progress", "internal/registry", "internal/reasons"},
	{"internal/ocilayout"},
	{"internal/store", "internal/sandbox", "internal/fileop", "internal/source", "internal/imagetools", "internal/manifestlist"},
	{"internal/cache", "internal/client", "internal/warm"},
	{"internal/engine", "internal/export", "internal/load"},
	{"internal/container", "internal/frontend"},
	{"internal/build", "internal/view"},
	{"internal/bake", "internal/history", "internal/migrate", "internal/advise", "internal/transfer"},
	{"internal/timing"},
	{"internal/report", "internal/serve"},
	{"internal/cli"},
	{"cmd/slipway"},
}

// owners are the only packages that may import another module's package directly.
var owners = []struct {
	imported string
	by       []string
	reason   string
}{
	{"modernc.org/sqlite", []string{"internal/store"}, "the database's format is the store's own affair"},
	{"github.com/opencontainers/runc", []string{"internal/sandbox"}, "any OCI runtime must be able to take the place of what starts containers"},
	{"github.com/DataDog/zstd", []string{"internal/layer"}, "C code does not read what comes from others: it only compresses there"},
	{module + "internal/libdeflate", []string{"internal/layer"}, "C code does not read what comes from others"},
	{"mvdan.cc/sh/v3", []string{"internal/migrate"}, "nothing else reads scripts"},
	{"gvisor.dev/gvisor", []string{"internal/network"}, "how a process gets out is the network's own affair"},
	{"github.com/vishvananda/netlink", []string{"internal/network"}, "nothing else sets interfaces up"},
	{"github.com/minio/minio-go/v7", []string{"internal/cache/bucket"}, "only its signatures and its search for keys are used: the rest of it is large"},
	{"github.com/spf13/cobra", []string{"internal/cli", "cmd/slipway"}, "flags end in cli: an API server drives the same packages"},
	{"github.com/docker/cli/templates", []string{"internal/cli"}, "how something is shown is its front door's affair: others give values"},
	{"text/template", []string{"internal/cli"}, "how something is shown is its front door's affair: others give values"},
	{"text/tabwriter", []string{"internal/cli"}, "how something is shown is its front door's affair: others give values"},
	{"github.com/docker/buildx", []string{"internal/bake"}, "what targets mean is one package's affair, which makes requests of builds of them"},
	{"google.golang.org/grpc", []string{"internal/client", "internal/serve"}, "what a client offers in its session is made a contract of ours in one place"},
	{"github.com/moby/buildkit/frontend/dockerfile/builder", []string{"internal/frontend"}, "nothing else knows of Dockerfiles"},
}

// bans are packages that must not be reached, not even through others.
var bans = []struct{ from, to, reason string }{
	{"internal/layer", "github.com/moby/buildkit", "forms of layers do not depend on the build graph"},
	{"internal/store", "github.com/moby/buildkit", "what is on disk does not depend on the build graph"},
	{"internal/view", "github.com/moby/buildkit/api", "it knows no protocol: its values serve all front doors"},
	{"internal/view", "github.com/moby/moby/api", "it knows no protocol: its values serve all front doors"},
	{"internal/view", module + "internal/engine", "what a store has is told without a build"},
	{"internal/sandbox", "github.com/moby/buildkit", "the sandbox's contract is the OCI runtime specification"},
	{"internal/engine", "github.com/moby/buildkit/frontend/dockerfile", "the engine executes LLB, whoever wrote it"},
	{"cmd/slipway", "github.com/google/go-containerregistry", "it is an independent check in tests, not a part"},
	{"cmd/slipway", "github.com/rogpeppe/go-internal", "it is for tests"},
	{"cmd/slipway", "github.com/johannesboyne/gofakes3", "it is for tests"},
	{"cmd/slipway", "k8s.io/client-go", "its start costs more than that of all of slipway"},
	{"cmd/slipway", "testing", "it is for tests, and registers flags"},
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir string
	Standard        bool
	GoFiles         []string
	CgoFiles        []string
	Imports, Deps   []string
}

// packages lists slipway's own packages, without their tests, as `make build` links them: with the modules of hack/patches.
func packages(t *testing.T) []listed {
	t.Helper()
	all, err := listOnce()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var listOnce = sync.OnceValues(func() ([]listed, error) {
	if out, err := exec.Command(filepath.Join("..", "..", "hack", "patched.sh")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("hack/patched.sh: %w: %s", err, out)
	}
	cmd := exec.Command("go", "list", "-modfile=build/patched/go.mod", "-e", "-tags", "seccomp netgo osusergo", "-json=ImportPath,Dir,Standard,GoFiles,CgoFiles,Imports,Deps", "./cmd/...", "./internal/...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, errors.New("go list found no packages")
	}
	return all, nil
})

// below reports whether path is name or lies below it.
func below(path, name string) bool {
	return path == name || strings.HasPrefix(path, name+"/")
}

// place finds the tier and the name there that a package belongs to.
func place(path string) (tier int, name string) {
	for i, names := range tiers {
		for _, n := range names {
			if below(path, n) {
				return i, n
			}
		}
	}
	return -1, ""
}

func TestImportsPointDownward(t *testing.T) {
	for _, p := range packages(t) {
		self := strings.TrimPrefix(p.ImportPath, module)
		tier, name := place(self)
		if tier < 0 {
			t.Errorf("%s has no tier: add it to tiers in this test", self)
			continue
		}
		for _, path := range p.Imports {
			other, ours := strings.CutPrefix(path, module)
			if !ours || below(other, name) {
				continue
			}
			if t2, _ := place(other); t2 < 0 || t2 >= tier {
				t.Errorf("%s imports %s, which is not below it", self, other)
			}
		}
	}
}

func TestOwners(t *testing.T) {
	for _, p := range packages(t) {
		self := strings.TrimPrefix(p.ImportPath, module)
		if self == "internal/tools" {
			continue // keeps modules in go.mod
		}
		for _, o := range owners {
			allowed := slices.ContainsFunc(o.by, func(name string) bool { return below(self, name) })
			for _, path := range p.Imports {
				if below(path, o.imported) && !allowed {
					t.Errorf("%s imports %s, want only %v to: %s", self, path, o.by, o.reason)
				}
			}
		}
	}
}

func TestBans(t *testing.T) {
	for _, p := range packages(t) {
		self := strings.TrimPrefix(p.ImportPath, module)
		for _, b := range bans {
			if !below(self, b.from) || strings.HasSuffix(self, "test") {
				continue
			}
			for _, path := range p.Deps {
				if below(path, b.to) {
					t.Errorf("%s reaches %s: %s", self, path, b.reason)
				}
			}
		}
	}
}

// speakers may print and exit: cli and main, and the sandbox's first process in a container,
// which is a program of its own.
var speakers = []string{"internal/cli", "cmd/slipway", "internal/sandbox/initproc"}

// TestOnlyCLISpeaks finds calls that print to the process's streams or end it.
func TestOnlyCLISpeaks(t *testing.T) {
	banned := map[string]bool{
		"os.Exit": true, "os.Stdout": true, "os.Stderr": true, "log.Fatal": true, "log.Fatalf": true,
		"log.Print": true, "log.Printf": true, "log.Println": true,
		"fmt.Print": true, "fmt.Printf": true, "fmt.Println": true,
	}
	for _, p := range packages(t) {
		self := strings.TrimPrefix(p.ImportPath, module)
		if slices.ContainsFunc(speakers, func(name string) bool { return below(self, name) }) {
			continue
		}
		for _, name := range append(p.GoFiles, p.CgoFiles...) {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && banned[x.Name+"."+sel.Sel.Name] {
					t.Errorf("%s: %s.%s: only cli prints and exits", set.Position(sel.Pos()), x.Name, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// TestLibzstdOnlyCompresses finds uses of libzstd that read what others compressed: of the module there is its C alone, and
// of that what compresses.
func TestLibzstdOnlyCompresses(t *testing.T) {
	allowed := []string{"ZSTD_outBuffer", "ZSTD_inBuffer", "ZSTD_CCtx", "ZSTD_CCtx_s", "ZSTD_createCCtx", "ZSTD_freeCCtx",
		"ZSTD_CCtx_setParameter", "ZSTD_compressStream2", "ZSTD_isError", "ZSTD_getErrorName"}
	name, library := regexp.MustCompile(`ZSTD_\w+`), `"github.com/DataDog/zstd"`
	found := false
	for _, p := range packages(t) {
		for _, file := range append(p.GoFiles, p.CgoFiles...) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(text), library) > strings.Count(string(text), "_ "+library) {
				t.Errorf("%s/%s: want libzstd imported for its C alone", p.Dir, file)
			}
			for _, word := range name.FindAllString(string(text), -1) {
				found = true
				if !slices.Contains(allowed, word) {
					t.Errorf("%s/%s: %s: want nothing but compressing of libzstd", p.Dir, file, word)
				}
			}
		}
	}
	if !found {
		t.Error("no file uses libzstd: remove this test")
	}
}
