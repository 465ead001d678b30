package docker

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/jsonstream"
)

// stream is an answer of messages, one after the other, as they come. It is safe for concurrent use.
type stream struct {
	r *request

	mu    sync.Mutex
	err   error
	shown map[string]shown // by layer
}

// shown is what was told of a layer last.
type shown struct {
	words string
	at    time.Time
}

// message is one of the messages, with the field of old.
type message struct {
	jsonstream.Message
	Error string `json:"error,omitempty"`
}

func (r *request) stream() *stream { return &stream{r: r, shown: map[string]shown{}} }

// send tells a message at once.
func (s *stream) send(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return // the client is gone, which ends the request's context
	}
	data, err := json.Marshal(m)
	if err != nil {
		s.err = err
		return
	}
	if !s.r.began {
		s.r.closeUnread()
		s.r.began = true
		s.r.w.Header().Set("Content-Type", "application/json")
		s.r.w.WriteHeader(http.StatusOK)
	}
	if _, s.err = s.r.w.Write(append(data, '\r', '\n')); s.err == nil {
		s.err = http.NewResponseController(s.r.w).Flush()
	}
}

// text tells words of a build or a load.
func (s *stream) text(format string, args ...any) {
	s.send(message{Message: jsonstream.Message{Stream: fmt.Sprintf(format, args...)}})
}

// aux tells what programs want to know.
func (s *stream) aux(id string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return
	}
	raw := json.RawMessage(data)
	s.send(message{Message: jsonstream.Message{ID: id, Aux: &raw}})
}

// Printf implements [transfer.Display].
func (s *stream) Printf(format string, args ...any) {
	s.send(message{Message: jsonstream.Message{Status: strings.TrimSuffix(fmt.Sprintf(format, args...), "\n")}})
}

// redraw is the time between two messages of how far a layer is.
const redraw = 100 * time.Millisecond

// Layer implements [transfer.Display].
func (s *stream) Layer(id, words string, current, total int64) {
	s.mu.Lock()
	last, now := s.shown[id], time.Now()
	if last.words == words && now.Sub(last.at) < redraw {
		s.mu.Unlock()
		return
	}
	s.shown[id] = shown{words, now}
	s.mu.Unlock()
	p := &jsonstream.Progress{}
	if total > 0 && current < total {
		p.Current, p.Total = current, total
	}
	s.send(message{Message: jsonstream.Message{ID: id, Status: words, Progress: p}})
}

// end tells the error of what the stream is about: in the stream, unless nothing was told yet.
func (s *stream) end(err error) error {
	s.mu.Lock()
	began := s.r.began
	s.mu.Unlock()
	if err == nil || !began {
		return err
	}
	s.send(message{Message: jsonstream.Message{Error: &jsonstream.Error{Message: err.Error()}}, Error: err.Error()})
	return nil
}
