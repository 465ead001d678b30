package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// storeless are the commands, with those below them, that open no store.
var storeless = []string{
	"login", "logout", "help", "completion", "context", "manifest", "imagetools", "buildx imagetools",
	"buildx create", "buildx use", "buildx ls", "buildx inspect", "buildx rm", "buildx stop", "buildx install", "buildx uninstall",
}

// readers are those that only look into the store's records. The others unpack, pack, measure, delete or run what belongs to several users.
var readers = []string{
	cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd,
	"images", "image ls", "image inspect", "history", "image history", "tag", "image tag", "info",
}

// among reports whether a command is one of these, or below one.
func among(cmd *cobra.Command, paths []string) bool {
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return slices.ContainsFunc(paths, func(name string) bool { return path == name || strings.HasPrefix(path, name+" ") })
}

// isolate chooses how steps are run, and has this process enter a user namespace if that is it, in which it begins anew. What cannot be had
// is no error before something is to be run.
func (a *app) isolate(cmd *cobra.Command) error {
	wanted, err := isolation.ParseMode(a.isolation)
	if err != nil {
		return err
	}
	entry := isolation.Entered()
	if entry != nil && entry.Inside {
		a.mode = isolation.Chosen(entry)
		if entry.Err == nil {
			err = isolation.Show(a.carried.Home)
		}
		return errors.Join(entry.Err, err)
	}
	dir, err := a.storeRoot()
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		dir = "" // that is an error where a store is opened
	}
	a.mode = isolation.Choose(isolation.Find(wanted, dir, madeAs), wanted)
	switch {
	case !a.mode.Enters(), among(cmd, storeless), among(cmd, readers) && !a.mode.Shifted():
		return nil
	case cmd.Context().Err() != nil:
		return context.Cause(cmd.Context())
	}
	if err := a.beforeEntering(); err != nil {
		return err
	}
	told := carried{Settings: a.files}
	if a.mode.Shifted() {
		told.Home = isolation.Gather(homeFiles())
	}
	text, err := json.Marshal(told)
	if err == nil {
		err = isolation.Enter(a.mode, text)
	}
	a.mode = a.mode.Without(err)
	return nil
}

// madeAs is with which rights a store was made.
func madeAs(dir string) isolation.Mode {
	switch flavor, known := store.FlavorOf(dir); {
	case !known:
		return ""
	case flavor == layer.Trusted:
		return isolation.Root
	}
	return isolation.UserNS
}

// carried is what this process tells itself before it enters.
type carried struct {
	Settings []config.File
	Home     []isolation.File // that may be out of reach inside
}

// homeFiles are those that commands read of the user's.
func homeFiles() (all []string) {
	if file, err := buildersFile(); err == nil {
		all = append(all, file)
	}
	return append(all, filepath.Join(dockerconfig.Dir(), dockerconfig.ConfigFileName))
}

// beforeEntering does what cannot be done inside: to see whose the directories above the store are, and to make it for somebody else.
func (a *app) beforeEntering() error {
	dir, err := a.storeRoot()
	if err != nil {
		return err
	}
	if err := store.CheckPath(dir); err != nil {
		return err
	}
	if a.mode.Shifted() {
		return a.mode.Prepare(dir)
	}
	return nil
}

// flavor is that of stores.
func (a *app) flavor() layer.Flavor {
	if a.mode.Mode == isolation.Root && !a.mode.Nested {
		return layer.Trusted
	}
	return layer.User
}

// fidelity is that of what steps make.
func (a *app) fidelity() string {
	if a.mode == nil {
		return ""
	}
	return a.mode.Fidelity()
}

// tellIsolation says how the steps of a build are run, where that is not as root on a disk and where a display shows more than results.
func (a *app) tellIsolation(display string) {
	if a.mode == nil || a.mode.Mode == isolation.Root && !a.mode.InMemory || a.mode.Mode == "" || slices.Contains([]string{"quiet", "none", "rawjson"}, display) {
		return
	}
	fmt.Fprintf(a.stderr, "Isolation: %s\n", a.mode.Line())
}

// placeNotice is what whoever builds in place has to know.
const placeNotice = "steps run without isolation in this container: a RUN can read everything that this container can read, credentials of registries, the token of the " +
	"service account and slipway's store among it, use its network and its identity, and change what later steps and stages see. " +
	"Use it for Dockerfiles and base images that you trust as you trust the pipeline itself"

// isolationInfo is how `info` tells of it.
type isolationInfo struct {
	Mode, IDs, Why string
	Better         []string // each with what it needs
}

func (a *app) isolationInfo() isolationInfo {
	i := isolationInfo{Mode: string(a.mode.Mode), IDs: string(a.mode.IDs), Why: a.mode.Why, Better: []string{}}
	for _, l := range a.mode.Better {
		i.Better = append(i.Better, l.String())
	}
	return i
}
