package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// manager manages the containers of a store.
func (s *Server) manager(b *Backend) *container.Manager {
	gone := func(name string) { s.events.volume(events.ActionDestroy, name) }
	return &container.Manager{Store: b.Store, Command: s.opt.Monitor, VolumeGone: gone, Reopen: func() (*container.Manager, func(), error) {
		b, release, err := s.opt.Acquire()
		if err != nil {
			return nil, nil, err
		}
		return &container.Manager{Store: b.Store, Command: s.opt.Monitor, VolumeGone: gone}, release, nil
	}}
}

// container is the one that a request is about. The context ends with the server.
func (r *request) container(ctx context.Context) (context.Context, *container.Manager, store.Container, error) {
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return ctx, nil, store.Container{}, err
	}
	c, err := view.FindContainer(ctx, b.Store, strings.TrimPrefix(r.name, "/"))
	return ctx, r.s.manager(b), c, err
}

// done answers with nothing.
func (r *request) done() error {
	r.began = true
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// number is a parameter that is an integer; def if it is not there.
func (r *request) number(name string, def int) (int, error) {
	text := r.FormValue(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalidf("invalid %s: %q is not a number", name, text)
	}
	return n, nil
}

// containerStatus is the status of an error of a container's.
func containerStatus(err error) int {
	switch {
	case errors.Is(err, container.ErrNotRunning), errors.Is(err, container.ErrRunning), errors.Is(err, store.ErrNameTaken), errors.Is(err, container.ErrVolumeInUse), errors.Is(err, container.ErrNetworkExists):
		return http.StatusConflict
	case errors.Is(err, container.ErrNetworkInUse):
		return http.StatusForbidden
	case errors.Is(err, container.ErrNoExec), errors.Is(err, container.ErrNoNetwork):
		return http.StatusNotFound
	case errors.Is(err, sandbox.ErrCommandNotFound), errors.Is(err, sandbox.ErrCommandNotExecutable), errors.Is(err, container.ErrNoCommand), errors.Is(err, container.ErrInvalid):
		return http.StatusBadRequest
	}
	return 0
}

// startContainer answers POST /containers/NAME/start.
func (s *Server) startContainer(ctx context.Context, r *request) error {
	if err := checkpoint(r.FormValue("checkpoint")); err != nil {
		return err
	}
	ctx, m, c, err := r.usable(ctx)
	if err == nil {
		err = hasNetworks(m, c)
	}
	if err != nil {
		return err
	}
	err = m.Start(ctx, c)
	if errors.Is(err, container.ErrRunning) {
		r.began = true
		r.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if err != nil {
		return runError(c, err)
	}
	return r.done()
}

// checkpoint refuses to start a container anywhere but at its beginning, in dockerd's words.
func checkpoint(id string) error {
	switch {
	case id == "":
		return nil
	case !container.ValidName(id) || strings.HasSuffix(id, "."):
		return invalidf("invalid checkpoint ID %q, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", id)
	}
	return invalidf("checkpoint is only supported in experimental mode")
}

// hasNetworks refuses a container of which a network was removed, before anything is done with it.
func hasNetworks(m *container.Manager, c store.Container) error {
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	return m.HasNetworks(config)
}

// runError is the error of a process that cannot be run, in the words of dockerd by which clients choose their exit codes.
func runError(c store.Container, err error) error {
	name := ""
	if config, cerr := container.ReadConfig(c); cerr == nil && len(config.Args) > 0 {
		name = config.Args[0]
	}
	return failure{max(containerStatus(err), 0), "failed to create task for container: " + execWords(name, err)}.or(http.StatusInternalServerError)
}

// execWords are those of runc, where a program cannot be executed.
func execWords(name string, err error) string {
	switch {
	case errors.Is(err, sandbox.ErrCommandNotFound):
		return fmt.Sprintf("exec: %q: executable file not found in $PATH", name)
	case errors.Is(err, sandbox.ErrCommandNotExecutable):
		return fmt.Sprintf("exec: %q: permission denied: %v", name, err)
	}
	return err.Error()
}

// or gives a failure that has none a status.
func (f failure) or(status int) failure {
	if f.status == 0 {
		f.status = status
	}
	return f
}

// stopContainer answers POST /containers/NAME/stop.
func (s *Server) stopContainer(ctx context.Context, r *request) error {
	return s.stopping(ctx, r, func(ctx context.Context, m *container.Manager, c store.Container, sig string, seconds *int) error {
		if !m.State(c.ID).Running {
			r.began = true
			r.w.WriteHeader(http.StatusNotModified)
			return nil
		}
		sg, timeout, err := container.StopOf(c, sig, seconds)
		if err != nil {
			return invalidf("%v", err)
		}
		return m.Stop(ctx, c, sg, timeout)
	})
}

// restartContainer answers POST /containers/NAME/restart.
func (s *Server) restartContainer(ctx context.Context, r *request) error {
	return s.stopping(ctx, r, func(ctx context.Context, m *container.Manager, c store.Container, sig string, seconds *int) error {
		if err := s.mayEnter(m, c); err != nil {
			return err
		}
		if err := hasNetworks(m, c); err != nil {
			return err
		}
		sg, timeout, err := container.StopOf(c, sig, seconds)
		if err != nil {
			return invalidf("%v", err)
		}
		return m.Restart(ctx, c, sg, timeout)
	})
}

func (s *Server) stopping(ctx context.Context, r *request, do func(ctx context.Context, m *container.Manager, c store.Container, sig string, seconds *int) error) error {
	var seconds *int
	if r.FormValue("t") != "" {
		n, err := r.number("t", 0)
		if err != nil {
			return err
		}
		seconds = &n
	}
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	if ctx, err = r.goOn(); err != nil {
		return err
	}
	if err := do(ctx, m, c, r.FormValue("signal"), seconds); err != nil || r.began {
		return err
	}
	return r.done()
}

// killContainer answers POST /containers/NAME/kill.
func (s *Server) killContainer(ctx context.Context, r *request) error {
	sig, err := container.ParseSignal(r.FormValue("signal"), "SIGKILL")
	if err != nil {
		return invalidf("%v", err)
	}
	ctx, m, c, err := r.container(ctx)
	if err == nil {
		err = m.Kill(ctx, c, sig)
	}
	if err != nil {
		return err
	}
	return r.done()
}

// renameContainer answers POST /containers/NAME/rename.
func (s *Server) renameContainer(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	if err := m.Rename(ctx, c, strings.TrimPrefix(r.FormValue("name"), "/")); err != nil {
		return refusal(err)
	}
	return r.done()
}

// removeContainer answers DELETE /containers/NAME.
func (s *Server) removeContainer(ctx context.Context, r *request) error {
	if r.flag("link") {
		return failure{http.StatusNotImplemented, "containers are not linked to one another here"}
	}
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	if err := m.Remove(context.WithoutCancel(ctx), c.ID, r.flag("force"), r.flag("v")); err != nil {
		return err
	}
	return r.done()
}

// pruneContainers answers POST /containers/prune.
func (s *Server) pruneContainers(ctx context.Context, r *request) error {
	args, err := r.args("until", "label", "label!")
	if err != nil {
		return err
	}
	filter, err := view.ParseContainerFilter(args)
	if err != nil {
		return invalidf("%v", err)
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	gone, freed, err := view.PruneContainers(ctx, s.manager(b), filter)
	if err != nil {
		if len(gone) == 0 {
			return err
		}
		s.opt.Warn(fmt.Sprintf("pruning containers: %v", err)) // the client is told what went
	}
	report := containertypes.PruneReport{ContainersDeleted: gone, SpaceReclaimed: uint64(max(freed, 0))}
	s.events.tell(events.ContainerEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(report.SpaceReclaimed)})
	return r.answer(http.StatusOK, report)
}

// waitContainer answers POST /containers/NAME/wait: the head at once, so that the client may start the container then.
func (s *Server) waitContainer(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if errors.Is(err, store.ErrNotFound) { // who has just started it must not miss its end
		if code, ended := m.Ended(ctx, r.name); ended {
			return r.answer(http.StatusOK, containertypes.WaitResponse{StatusCode: int64(code)})
		}
	}
	if err != nil {
		return err
	}
	w, err := m.Watch(c)
	if err != nil {
		return err
	}
	defer w.Close()
	wait := w.NotRunning
	switch condition := r.FormValue("condition"); condition {
	case "", "not-running":
	case "next-exit":
		wait = w.NextExit
	case "removed":
		wait = w.Removed
	default:
		return invalidf("invalid condition: %q", condition)
	}
	ctx = r.letGo()
	r.began = true
	r.w.Header().Set("Content-Type", "application/json")
	r.w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(r.w).Flush(); err != nil {
		return err
	}
	state, err := wait(ctx)
	if err != nil { // the answer breaks off: a client that looks at the code alone would take it for the container's
		return err
	}
	return r.answer(0, containertypes.WaitResponse{StatusCode: int64(state.Code())})
}

// topContainer answers GET /containers/NAME/top.
func (s *Server) topContainer(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	titles, rows, err := m.Top(ctx, c, strings.Fields(r.FormValue("ps_args")))
	if err != nil {
		return err
	}
	s.events.looked(c, "top", nil)
	return r.answer(http.StatusOK, containertypes.TopResponse{Titles: titles, Processes: append([][]string{}, rows...)})
}

// containerChanges answers GET /containers/NAME/changes.
func (s *Server) containerChanges(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	changes, err := m.Diff(ctx, c)
	if err != nil {
		return err
	}
	kinds := map[container.ChangeKind]containertypes.ChangeType{container.Modified: containertypes.ChangeModify, container.Added: containertypes.ChangeAdd, container.Deleted: containertypes.ChangeDelete}
	var all []containertypes.FilesystemChange // null for none
	for _, ch := range changes {
		all = append(all, containertypes.FilesystemChange{Kind: kinds[ch.Kind], Path: ch.Path})
	}
	return r.answer(http.StatusOK, all)
}

// exportContainer answers GET /containers/NAME/export.
func (s *Server) exportContainer(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	m.Tell(c, "export", nil)
	r.w.Header().Set("Content-Type", "application/x-tar")
	return m.ExportAll(ctx, c, answerWriter{r})
}

// answerWriter is the body of an answer, which begins with the first byte.
type answerWriter struct{ r *request }

// Write implements io.Writer.
func (w answerWriter) Write(p []byte) (int, error) {
	w.r.began = true
	return w.r.w.Write(p)
}

// commitContainer answers POST /commit.
func (s *Server) commitContainer(ctx context.Context, r *request) error {
	var body *containertypes.Config
	if r.ContentLength != 0 {
		if err := r.document(&body); err != nil {
			return err
		}
	}
	r.name = r.FormValue("container")
	if r.name == "" {
		return invalidf("no container name was given")
	}
	opts := container.CommitOptions{Author: r.FormValue("author"), Comment: r.FormValue("comment"), Changes: r.Form["changes"], Config: commitConfig(body)}
	if repo := r.FormValue("repo"); repo != "" {
		name := repo
		if tag := r.FormValue("tag"); tag != "" {
			name += ":" + tag
		}
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return invalidf("%v: %q", err, name)
		}
		if _, digested := ref.(reference.Digested); digested {
			return invalidf("refusing to create a tag with a digest reference")
		}
		if opts.Name, err = store.NormalizeName(name); err != nil {
			return invalidf("%v", err)
		}
	}
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	img, err := m.Commit(ctx, c, opts)
	if err != nil {
		return err
	}
	named := opts.Name
	if named != "" {
		named = view.Familiar(named)
		s.tellImage(ctx, m.Store, events.ActionTag, img.ID.String(), named)
	}
	m.Tell(c, "commit", map[string]string{"comment": opts.Comment, "imageID": img.ID.String(), "imageRef": named})
	return r.answer(http.StatusCreated, containertypes.CommitResponse{ID: img.ID.String()})
}

// commitConfig is what a client wants the image to have in the place of what the container has; nil for nothing.
func commitConfig(c *containertypes.Config) *ocispec.ImageConfig {
	if c == nil {
		return nil
	}
	out := &ocispec.ImageConfig{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes, WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal, ExposedPorts: map[string]struct{}{},
	}
	for p := range c.ExposedPorts {
		out.ExposedPorts[p.String()] = struct{}{}
	}
	return out
}

// refuseContainer answers what is not there.
func (s *Server) refuseContainer(ctx context.Context, r *request) error {
	what := r.path[strings.LastIndexByte(r.path, '/')+1:]
	if what == "update" {
		if err := r.document(&containertypes.UpdateConfig{}); err != nil {
			return err
		}
	}
	if _, _, _, err := r.container(ctx); err != nil {
		return err
	}
	advice := map[string]string{
		"update": "create another container", "pause": "send it SIGSTOP with kill", "unpause": "send it SIGCONT with kill", "ws": "attach without a web socket",
	}[what]
	return failure{http.StatusNotImplemented, fmt.Sprintf("slipway does not serve %s of containers: %s", what, advice)}
}
