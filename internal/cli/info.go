package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newInfoCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "info [OPTIONS]",
		Short: "Display system-wide information",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			info, err := a.systemInfo(cmd.Context(), s)
			if err != nil {
				return err
			}
			if format != "" {
				return printObject(a.stdout, format, info)
			}
			return a.printInfo(info)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

func (a *app) printInfo(info *systemInfo) error {
	var all error
	for _, line := range []struct {
		name  string
		value any
	}{
		{"Version", version()}, {"Store", info.DockerRootDir}, {"Images", info.Images}, {"Containers", info.Containers},
		{"Runtime", info.DefaultRuntime}, {"Isolation", a.mode.Line()}, {"Registry configuration", a.certsDirs()},
	} {
		_, err := fmt.Fprintf(a.stdout, "%s: %v\n", line.name, line.value)
		all = errors.Join(all, err)
	}
	for _, l := range a.mode.Better {
		_, err := fmt.Fprintf(a.stdout, "Better isolation: %s\n", l)
		all = errors.Join(all, err)
	}
	return all
}

// systemInfo has those fields of Docker's `info --format` that have a meaning here, or that scripts look at.
type systemInfo struct {
	ID, Name                                             string
	Containers                                           int
	ContainersRunning, ContainersPaused                  int
	ContainersStopped, Images                            int
	Driver                                               string
	CgroupDriver, CgroupVersion                          string
	KernelVersion, OperatingSystem, OSType, Architecture string
	NCPU                                                 int
	MemTotal                                             int64
	DockerRootDir                                        string
	ServerVersion                                        string
	DefaultRuntime                                       string
	SecurityOptions, Labels, Warnings, ServerErrors      []string
	IndexServerAddress                                   string
	ExperimentalBuild                                    bool
	Swarm                                                struct{ LocalNodeState string }
	Isolation                                            isolationInfo
	ClientInfo                                           struct {
		clientVersion
		Debug   bool
		Plugins []clientPlugin
	}
}

type clientPlugin struct{ Name, Version, ShortDescription string }

// systemInfo tells what is there.
func (a *app) systemInfo(ctx context.Context, s *store.Store) (*systemInfo, error) {
	images, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.Containers(ctx)
	if err != nil {
		return nil, err
	}
	k, v := uname(), newVersionInfo()
	info := &systemInfo{
		Containers: len(all), Images: len(images), Driver: "overlayfs", CgroupDriver: "cgroupfs", CgroupVersion: cgroupVersion(),
		KernelVersion: k.release, OperatingSystem: osName(), OSType: runtime.GOOS, Architecture: k.machine, NCPU: runtime.NumCPU(),
		DockerRootDir: s.Root(), ServerVersion: v.Server.Version, DefaultRuntime: "built in", SecurityOptions: []string{"name=seccomp,profile=builtin"},
		Labels: []string{"slipway.version=" + version()}, IndexServerAddress: "https://index.docker.io/v1/",
	}
	if info.Isolation = a.isolationInfo(); a.rootless() {
		info.SecurityOptions = append(info.SecurityOptions, "name=rootless")
	}
	if a.runtime != "" {
		info.DefaultRuntime = a.runtime
	}
	info.ContainersRunning = view.Running(s, all)
	info.ContainersStopped = info.Containers - info.ContainersRunning
	info.Name, _ = os.Hostname()
	info.MemTotal = memory()
	info.Swarm.LocalNodeState = "inactive"
	info.ClientInfo.clientVersion, info.ClientInfo.Debug = v.Client, a.debug
	if _, info.ClientInfo.Context, err = a.contextNames(); err != nil {
		return nil, err
	}
	info.ClientInfo.Plugins = []clientPlugin{{"buildx", buildxRelease, "Docker Buildx"}}
	return info, nil
}

// rootless reports whether steps lack rights of the machine's root.
func (a *app) rootless() bool { return a.mode.Mode != isolation.Root || a.mode.Nested }

// cgroupVersion is "2" where there is nothing but cgroups of version 2.
func cgroupVersion() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "2"
	}
	return "1"
}

// memory is how much the machine has, in bytes; 0 is unknown.
func memory() int64 {
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) != nil {
		return 0
	}
	return int64(sys.Totalram) * int64(sys.Unit)
}

// osName is how the system calls itself.
func osName() string {
	data, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return runtime.GOOS
}
