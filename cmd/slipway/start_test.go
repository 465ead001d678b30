package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// TestMain makes this test binary slipway where the test below runs it.
func TestMain(m *testing.M) {
	if os.Getenv("SLIPWAY_TEST_START") != "" {
		main()
	}
	os.Exit(m.Run())
}

// initialized is what Go tells of the initialization of a package.
type initialized struct {
	name          string
	bytes, allocs int
}

// patched reports whether this binary has the modules of hack/patches.
func patched(t *testing.T) bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("the binary does not know what it was built from")
	}
	return slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Replace != nil })
}

// TestStartIsSmall bounds what packages allocate before main begins: it is what takes most of the time of
// `slipway version`, does not depend on the machine, and grows with each expression that is compiled and each table
// that is made before anybody asks for it. sync.OnceValue makes them when somebody does; see also hack/patches.
func TestStartIsSmall(t *testing.T) {
	most := initialized{bytes: 512_000, allocs: 3_200}
	if !patched(t) { // by `go test`; `make test` has the patches
		most = initialized{bytes: 6_700_000, allocs: 54_500}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "version")
	cmd.Args[0] = "slipway" // Docker's packages compile their expressions at once where a program's name ends with ".test"
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_START=1", "GODEBUG=inittrace=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if out, err := cmd.Output(); err != nil || !bytes.HasPrefix(out, []byte("slipway version ")) {
		t.Fatalf("slipway version: %v\n%s%s", err, out, &stderr)
	}
	var all []initialized
	var sum initialized
	for line := range strings.Lines(stderr.String()) {
		var p initialized
		var at, took float64
		if n, _ := fmt.Sscanf(line, "init %s @%f ms, %f ms clock, %d bytes, %d allocs", &p.name, &at, &took, &p.bytes, &p.allocs); n == 5 {
			all = append(all, p)
			sum.bytes += p.bytes
			sum.allocs += p.allocs
		}
	}
	if len(all) < 100 {
		t.Fatalf("Go told of %d packages only:\n%s", len(all), &stderr)
	}
	t.Logf("%d packages, %d bytes in %d allocations", len(all), sum.bytes, sum.allocs)
	if sum.bytes <= most.bytes && sum.allocs <= most.allocs {
		return
	}
	t.Errorf("packages allocate %d bytes in %d pieces before main, want at most %d in %d. Those with most:", sum.bytes, sum.allocs, most.bytes, most.allocs)
	slices.SortFunc(all, func(a, b initialized) int { return b.allocs - a.allocs })
	for _, p := range all[:15] {
		t.Logf("%7d bytes, %4d allocations: %s", p.bytes, p.allocs, p.name)
	}
}

// What generated files of protobuf register, which hack/patches puts off, is there for whoever asks for it first: in a
// process of its own for each way of asking.
func TestProtobufIsRegistered(t *testing.T) {
	ask := map[string]func() error{
		"message": func() error {
			m, err := protoregistry.GlobalTypes.FindMessageByName("pb.Op")
			if err == nil && m.Descriptor().Fields().ByName("exec").Message().FullName() != "pb.ExecOp" {
				err = fmt.Errorf("its field exec is %v", m.Descriptor().Fields().ByName("exec"))
			}
			return err
		},
		"URL": func() error {
			_, err := protoregistry.GlobalTypes.FindMessageByURL("type.googleapis.com/google.protobuf.Timestamp")
			return err
		},
		"extension": func() error {
			_, err := protoregistry.GlobalTypes.FindExtensionByName("vtproto.mempool")
			return err
		},
		"file": func() error {
			f, err := protoregistry.GlobalFiles.FindFileByPath("google/protobuf/descriptor.proto")
			if err == nil && f.Options() == nil {
				err = errors.New("it has no options")
			}
			return err
		},
		"all": func() error {
			n := protoregistry.GlobalFiles.NumFiles()
			protoregistry.GlobalFiles.RangeFiles(func(protoreflect.FileDescriptor) bool { n--; return true })
			if n != 0 || protoregistry.GlobalTypes.NumMessages() < 100 {
				return fmt.Errorf("%d messages, and %d files more than are told of", protoregistry.GlobalTypes.NumMessages(), n)
			}
			return nil
		},
	}
	if how := os.Getenv("SLIPWAY_TEST_REGISTERED"); how != "" {
		if err := ask[how](); err != nil {
			t.Fatal(err)
		}
		return
	}
	for how := range ask {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProtobufIsRegistered$")
		cmd.Env = append(os.Environ(), "SLIPWAY_TEST_REGISTERED="+how)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("asked for a %s: %v\n%s", how, err, out)
		}
	}
}

// What `make build` makes is linked with musl where that is installed, whose start asks the processor nothing.
func TestMusl(t *testing.T) {
	if _, err := exec.LookPath("musl-gcc"); err != nil {
		t.Skip("musl-gcc is not installed, which hack/deps.sh does")
	}
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = filepath.Join("..", "..")
		cmd.Env = append(os.Environ(), "CC=", "MAKEFLAGS=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	if how := run("make", "-n", "build"); !strings.Contains(how, "hack/go.sh build ") {
		t.Errorf("make build does not use hack/go.sh:\n%s", how)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\n// int three(void) { return 3; }\nimport \"C\"\n\nfunc main() { println(C.three()) }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("hack/go.sh", "build", "-o", program, source)
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Section(".interp") != nil {
		t.Error("hack/go.sh links dynamically")
	}
	if f.Section("__libc_freeres_fn") != nil || f.Section("__libc_IO_vtables") != nil {
		t.Error("hack/go.sh links with glibc")
	}
}
