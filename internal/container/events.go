package container

import (
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/container/logfile"
	"github.com/slipway-build/slipway/internal/store"
)

// Event is something that was done with a container, in Docker's words.
type Event struct {
	Action     string            `json:"action"`
	ID         string            `json:"id"`
	Attributes map[string]string `json:"attributes"` // the container's labels among them
	Time       time.Time         `json:"time"`
}

const (
	// eventsSize is how large each of the two files of events may become, maxEvent how large an event may be with its labels; in bytes.
	eventsSize = 1 << 20
	maxEvent   = 12 << 10
)

// NewEvent is an event of now with a container, whose labels, image and name are among the attributes.
func NewEvent(c store.Container, action string, attributes map[string]string) Event {
	e := Event{Action: action, ID: c.ID, Attributes: map[string]string{}, Time: time.Now().UTC()}
	if config, err := ReadConfig(c); err == nil {
		maps.Copy(e.Attributes, config.Labels)
	}
	maps.Copy(e.Attributes, ownAttributes(c, attributes))
	return e
}

// ownAttributes are those of an event without labels.
func ownAttributes(c store.Container, attributes map[string]string) map[string]string {
	own := map[string]string{"image": c.Image, "name": c.Name}
	maps.Copy(own, attributes)
	return own
}

// tell writes an event into the store, where all who follow them find it. It is lost when it cannot be written.
func (m *Manager) tell(c store.Container, action string, attributes map[string]string) {
	e := NewEvent(c, action, attributes)
	data, err := json.Marshal(e)
	if err == nil && len(data) > maxEvent {
		e.Attributes = ownAttributes(c, attributes)
		data, err = json.Marshal(e)
	}
	if err == nil && len(data) <= maxEvent {
		_ = logfile.Append(m.eventsPath(), eventsSize, logfile.Entry{Log: string(data), Stream: logfile.Stdout, Time: e.Time})
	}
}

func (m *Manager) eventsPath() string { return filepath.Join(m.Store.Root(), "events") }

// Tell tells of something that a client did with a container.
func (m *Manager) Tell(c store.Container, action string, attributes map[string]string) {
	m.tell(c, action, attributes)
}

// Events gives what was done with containers by any process, the oldest first: from a time on, and until another one, which may be zero for ever.
func (m *Manager) Events(ctx context.Context, since, until time.Time, follow bool, give func(Event) error) error {
	return ReadEvents(ctx, m.Store.Root(), since, until, follow, give)
}

// ReadEvents is [Manager.Events] for who does not hold the store.
func ReadEvents(ctx context.Context, root string, since, until time.Time, follow bool, give func(Event) error) error {
	m := filepath.Join(root, "events")
	o := logfile.Options{Stdout: true, Tail: -1, Since: since, Until: until, Follow: follow, Alive: func() bool { return true }}
	return logfile.Read(ctx, m, o, func(entry *logfile.Entry) error {
		var e Event
		if json.Unmarshal(entry.Bytes(), &e) != nil {
			return nil
		}
		return give(e)
	})
}

// Ended is the exit code of a container that is gone, by its whole ID, as long as events tell of it.
func (m *Manager) Ended(ctx context.Context, id string) (code int, ended bool) {
	_ = m.Events(ctx, time.Time{}, time.Now(), false, func(e Event) error { // what cannot be read is not known
		if e.ID == id && e.Action == "die" {
			n, err := strconv.Atoi(e.Attributes["exitCode"])
			code, ended = n, err == nil
		}
		return nil
	})
	return code, ended
}

// DockerEvent is an event as Docker's API tells it.
type DockerEvent struct {
	Type, Action string
	Actor        EventActor
	Scope        string `json:"scope"`
	Time         int64  `json:"time"`
	TimeNano     int64  `json:"timeNano"`
}

// EventActor is what something was done with.
type EventActor struct {
	ID         string
	Attributes map[string]string
}

// Docker is the event as Docker's API tells it.
func (e Event) Docker() DockerEvent {
	return DockerEvent{Type: "container", Action: e.Action, Actor: EventActor{e.ID, e.Attributes}, Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano()}
}

// Matches reports whether filters let an event through: all labels have to be there, and of the other keys one value has to fit.
func (e Event) Matches(args map[string][]string) bool {
	for key, values := range args {
		fits := func(v string) bool { return e.matches(key, v) }
		ok := slices.ContainsFunc(values, fits)
		if key == "label" {
			ok = !slices.ContainsFunc(values, func(v string) bool { return !fits(v) })
		}
		if !ok {
			return false
		}
	}
	return true
}

func (e Event) matches(key, value string) bool {
	switch key {
	case "type":
		return value == "container"
	case "scope":
		return value == "local"
	case "event":
		return e.Action == value || strings.HasPrefix(e.Action, value+":")
	case "container":
		return e.Attributes["name"] == strings.TrimPrefix(value, "/") || value != "" && strings.HasPrefix(e.ID, value)
	case "image":
		name, _, _ := strings.Cut(e.Attributes["image"], ":")
		return e.Attributes["image"] == value || name == value
	case "label":
		k, want, exact := strings.Cut(value, "=")
		got, ok := e.Attributes[k]
		return ok && (!exact || got == want)
	}
	return false
}
