package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// kept is how many events a client may ask for that happened before it came, as dockerd keeps them; waiting is how many may wait for one that
// does not read them: more are lost to it.
const (
	kept    = 256
	waiting = 1024
)

// bus hands events to those who follow them.
type bus struct {
	mu        sync.Mutex
	past      []events.Message
	followers map[chan events.Message]bool
	closed    chan struct{}
	once      sync.Once
}

func newBus() *bus {
	return &bus{followers: map[chan events.Message]bool{}, closed: make(chan struct{})}
}

func (b *bus) close() { b.once.Do(func() { close(b.closed) }) }

// tell tells of something that was done.
func (b *bus) tell(kind events.Type, action events.Action, id string, attributes map[string]string) {
	now := time.Now()
	if attributes == nil {
		attributes = map[string]string{}
	}
	b.add(events.Message{Type: kind, Action: action, Actor: events.Actor{ID: id, Attributes: attributes}, Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano()})
}

// looked tells that a client looked at a container, or at its size. What is in the store tells how containers ended, as long as it does not have to make room for
// what clients do all the time: this is not among it.
func (b *bus) looked(c store.Container, action string, attributes map[string]string) {
	b.add(containerEvent(container.NewEvent(c, action, attributes)))
}

func (b *bus) add(m events.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.past = append(b.past, m); len(b.past) > kept {
		b.past = slices.Delete(b.past, 0, 1)
	}
	for c := range b.followers {
		select {
		case c <- m:
		default:
		}
	}
}

// image tells of something that was done with an image, with the labels of it.
func (b *bus) image(action events.Action, id, name string, labels map[string]string) {
	attributes := maps.Clone(labels)
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["name"] = name
	b.tell(events.ImageEventType, action, id, attributes)
}

// tellImage is [bus.image] of one that is here, by its name or ID.
func (s *Server) tellImage(ctx context.Context, st *store.Store, action events.Action, id, name string) {
	var labels map[string]string
	if img, err := st.Image(context.WithoutCancel(ctx), id); err == nil {
		if config, err := view.ImageConfig(context.WithoutCancel(ctx), st, img.ID); err == nil {
			labels = config.Config.Labels
		}
	}
	s.events.image(action, id, name, labels)
}

// join returns what happened, and what will.
func (b *bus) join() (past []events.Message, next chan events.Message, leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next = make(chan events.Message, waiting)
	b.followers[next] = true
	return slices.Clone(b.past), next, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.followers, next)
	}
}

// oldEvent is an event with the fields of before 1.52, which those of containers and images have.
func oldEvent(m events.Message) any {
	switch m.Type {
	case events.ContainerEventType:
		return compat{m, fields{"status": m.Action, "id": m.Actor.ID, "from": m.Actor.Attributes["image"]}}
	case events.ImageEventType:
		return compat{m, fields{"status": m.Action, "id": m.Actor.ID}}
	}
	return m
}

// follow answers GET /events.
func (s *Server) follow(ctx context.Context, r *request) error {
	since, hasSince, err := r.moment("since")
	if err != nil {
		return err
	}
	until, hasUntil, err := r.moment("until")
	if err != nil {
		return err
	}
	if hasUntil && until.Before(since) {
		return invalidf("`since` time (%s) cannot be after `until` time (%s)", r.FormValue("since"), r.FormValue("until"))
	}
	args, err := r.args("type", "event", "image", "label", "scope", "container", "daemon", "network", "volume", "plugin", "service", "node", "secret", "config")
	if err != nil {
		return err
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	m := s.manager(b)
	past, next, leave := s.events.join()
	defer leave()
	now := time.Now()
	if hasSince || hasUntil {
		if past, err = withContainers(ctx, m, past, since, now); err != nil {
			return err
		}
	}
	ctx = r.letGo()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	containers := followContainers(ctx, m, now)
	var over <-chan time.Time
	if hasUntil {
		wait := time.Until(until)
		if wait > 0 {
			wait += lateEvents
		}
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	send, err := r.eventWriter(args, until)
	if err != nil {
		return err
	}
	for _, m := range past {
		if hasSince && m.TimeNano >= since.UnixNano() || !hasSince && hasUntil {
			if err := send(m); err != nil {
				return err
			}
		}
	}
	for {
		select {
		case m := <-next:
			if err := send(m); err != nil {
				return err
			}
		case m := <-containers:
			if err := send(m); err != nil {
				return err
			}
		case <-over:
			return nil
		case <-s.events.closed:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// lateEvents is how long after it was told an event of a container may be read from the store.
const lateEvents = 200 * time.Millisecond

// eventWriter begins the answer of GET /events and returns what adds an event to it, if filters let that through and it is not after until, which may be zero.
func (r *request) eventWriter(args map[string][]string, until time.Time) (func(events.Message) error, error) {
	kind, before := types.MediaTypeJSONLines, ""
	switch accept := strings.Join(r.Header.Values("Accept"), ","); { // in the order in which clients want them that take all
	case strings.Contains(accept, types.MediaTypeJSONLines):
	case strings.Contains(accept, types.MediaTypeNDJSON):
		kind = types.MediaTypeNDJSON
	case strings.Contains(accept, types.MediaTypeJSONSequence):
		kind, before = types.MediaTypeJSONSequence, "\x1e"
	case r.before("1.52"):
		kind = types.MediaTypeJSON
	}
	r.began = true
	r.w.Header().Set("Content-Type", kind)
	r.w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(r.w)
	return func(m events.Message) error {
		if !wanted(args, m) || !until.IsZero() && m.TimeNano > until.UnixNano() {
			return nil
		}
		if r.before("1.46") && m.Type == events.ImageEventType && m.Action == events.ActionCreate { // they came then
			return nil
		}
		var v any = m
		if r.before("1.52") {
			v = oldEvent(m)
		}
		data, err := json.Marshal(v)
		if err == nil {
			_, err = fmt.Fprintf(r.w, "%s%s\n", before, data)
		}
		if err != nil {
			return err
		}
		return flush.Flush()
	}, flush.Flush()
}

// containerEvent is an event of a container's, which any process may have told of.
func containerEvent(e container.Event) events.Message {
	return events.Message{
		Type: events.ContainerEventType, Action: events.Action(e.Action), Actor: events.Actor{ID: e.ID, Attributes: e.Attributes}, Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}

// withContainers adds what happened with containers between two times, in the order of time.
func withContainers(ctx context.Context, m *container.Manager, past []events.Message, since, until time.Time) ([]events.Message, error) {
	err := m.Events(ctx, since, until, false, func(e container.Event) error {
		past = append(past, containerEvent(e))
		return nil
	})
	slices.SortStableFunc(past, func(a, b events.Message) int { return cmp.Compare(a.TimeNano, b.TimeNano) })
	return past, err
}

// followContainers tells what happens with containers after a time.
func followContainers(ctx context.Context, m *container.Manager, after time.Time) <-chan events.Message {
	all := make(chan events.Message)
	go func() {
		_ = m.Events(ctx, after.Add(1), time.Time{}, true, func(e container.Event) error { // it ends with the request
			select {
			case all <- containerEvent(e):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	return all
}

// moment is a parameter that is a time: seconds since the epoch, with a fraction or without.
func (r *request) moment(name string) (t time.Time, given bool, err error) {
	text := r.FormValue(name)
	if text == "" {
		return t, false, nil
	}
	whole, fraction, _ := strings.Cut(text, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	var nsec int64
	if err == nil && fraction != "" {
		fraction = (fraction + "000000000")[:9]
		nsec, err = strconv.ParseInt(fraction, 10, 64)
	}
	if err != nil {
		return t, false, invalidf("invalid %s %q: want seconds since the epoch", name, text)
	}
	return time.Unix(sec, nsec), true, nil
}

// wanted reports whether filters let an event through.
func wanted(args map[string][]string, m events.Message) bool {
	return fit(args, m.Actor.Attributes, func(key, v string) bool {
		name := m.Actor.Attributes["name"]
		switch key {
		case "type":
			return string(m.Type) == v
		case "event":
			return string(m.Action) == v || strings.HasPrefix(string(m.Action), v+":")
		case "scope":
			return m.Scope == v
		case "container":
			return m.Type == events.ContainerEventType && (name == strings.TrimPrefix(v, "/") || v != "" && strings.HasPrefix(m.Actor.ID, v))
		case "network":
			return m.Type == events.NetworkEventType && (m.Actor.ID == v || name == v)
		case "volume":
			return m.Type == events.VolumeEventType && m.Actor.ID == v
		case "image":
			if m.Type == events.ContainerEventType {
				name = m.Actor.Attributes["image"]
				return name == v || repositoryOf(name) == v
			}
			return m.Type == events.ImageEventType && (m.Actor.ID == v || repositoryOf(m.Actor.ID) == v || name == v || repositoryOf(name) == v)
		}
		return false
	})
}
