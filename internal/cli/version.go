package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Version is the program's version; the linker sets it. Without it the module's is shown.
var Version = ""

func newVersionCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:         "version [OPTIONS]",
		Short:       "Show the version information",
		Long:        "Show the version. In templates the versions of client and server are those of the Docker whose words slipway has, as scripts compare them.",
		Args:        exactArgs(0),
		Annotations: map[string]string{printsOnly: "true"},
		RunE: func(*cobra.Command, []string) error {
			if format != "" {
				return printObject(a.stdout, format, newVersionInfo())
			}
			return a.printVersion()
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.stdout, "slipway version %s %s/%s %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	return err
}

// printObject prints one object as Docker's commands do that describe one: by a template, or as a line of JSON.
func printObject(w io.Writer, format string, object any) error {
	if format == "json" {
		format = "{{json .}}"
	}
	i, err := newInspector(format)
	if err != nil {
		return err
	}
	if err := i.add(object); err != nil {
		return err
	}
	return i.flush(w)
}

// versionInfo is what Docker's `version --format` shows. Client and server are one program.
type versionInfo struct {
	Client clientVersion
	Server serverVersion
}

type clientVersion struct {
	Platform                      struct{ Name string }
	Version, GoVersion, Os, Arch  string
	APIVersion, DefaultAPIVersion string // of the engine's API, which is not there
	GitCommit, BuildTime, Context string
	Experimental                  bool
}

type serverVersion struct {
	Platform                            struct{ Name string }
	Components                          []versionComponent
	Version, GoVersion, Os, Arch        string
	APIVersion, MinAPIVersion           string
	GitCommit, BuildTime, KernelVersion string
	Experimental                        bool
}

type versionComponent struct {
	Name, Version string
}

func newVersionInfo() *versionInfo {
	var v versionInfo
	docker := strings.TrimPrefix(dockerRelease, "v")
	name := "slipway " + version()
	v.Client.Platform.Name, v.Client.Version, v.Client.GoVersion, v.Client.Os, v.Client.Arch = name, docker, runtime.Version(), runtime.GOOS, runtime.GOARCH
	v.Client.Context = "default"
	v.Server = serverVersion{
		Version: docker, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, KernelVersion: uname().release,
		Components: []versionComponent{{"slipway", version()}, {"BuildKit", buildKitRelease}},
	}
	v.Server.Platform.Name = name
	return &v
}

// kernel is what the kernel says of itself.
type kernel struct{ release, machine string }

func uname() kernel {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return kernel{}
	}
	return kernel{unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])}
}

// version is the linker's, the module's, or the commit's that the binary was built from.
func version() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
