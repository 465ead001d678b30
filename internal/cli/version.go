package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Version, Commit and Date are the program's version (by semver, without a "v"), the hash of the commit that it was built
// from, and when that was committed (RFC 3339, UTC). The linker sets them. What it did not set, the go command may have
// noted: those of a plain `go build` in a repository, or of `go install MODULE@VERSION`.
var Version, Commit, Date string

func newVersionCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Show the version information",
		Long: "Show the version, the commit that the program was built from and its date, and the version of BuildKit whose frontend is linked in.\n" +
			"In templates the versions of client and server are those of the Docker whose words slipway has, as scripts compare them.",
		Args:        exactArgs(0),
		Annotations: map[string]string{printsOnly: "true"},
		RunE: func(*cobra.Command, []string) error {
			if format != "" {
				return printObject(a.stdout, format, newVersionInfo())
			}
			if err := a.printVersion(); err != nil {
				return err
			}
			_, commit, date := stamp()
			_, err := fmt.Fprintf(a.stdout, "  commit    %s\n  date      %s\n  BuildKit  %s\n", cmp.Or(commit, "unknown"), cmp.Or(date, "unknown"), buildKitRelease)
			return err
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
	Details       map[string]string `json:",omitempty"`
}

func newVersionInfo() *versionInfo {
	var v versionInfo
	docker := strings.TrimPrefix(dockerRelease, "v")
	number, commit, date := stamp()
	name := "slipway " + number
	v.Client.Platform.Name, v.Client.Version, v.Client.GoVersion, v.Client.Os, v.Client.Arch = name, docker, runtime.Version(), runtime.GOOS, runtime.GOARCH
	v.Client.Context, v.Client.GitCommit, v.Client.BuildTime = "default", commit, date
	v.Server = serverVersion{
		Version: docker, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, KernelVersion: uname().release,
		GitCommit: commit, BuildTime: date,
		Components: []versionComponent{
			{"slipway", number, map[string]string{"GitCommit": commit, "BuildTime": date, "GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH}},
			{"BuildKit", buildKitRelease, nil},
		},
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

// version is the first of what stamp tells.
func version() string {
	number, _, _ := stamp()
	return number
}

// stamp tells the version, the commit and its date. The version of what nobody stamped is "devel", the rest is empty.
func stamp() (number, commit, date string) {
	number, commit, date = Version, Commit, Date
	if number != "" && commit != "" && date != "" {
		return number, commit, date
	}
	return stampOf(debug.ReadBuildInfo())
}

// stampOf completes the stamp of the linker by what the go command noted.
func stampOf(info *debug.BuildInfo, known bool) (number, commit, date string) {
	number, commit, date = Version, Commit, Date
	if known {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = cmp.Or(commit, s.Value)
			case "vcs.time":
				date = cmp.Or(date, s.Value)
			}
		}
		if v := info.Main.Version; v != "(devel)" {
			number = cmp.Or(number, strings.TrimPrefix(v, "v"))
		}
	}
	return cmp.Or(number, "devel"), commit, date
}
