package client

import (
	"testing"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/exporter/exporterprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
)

// Only a session that would name outputs is known as one.
func TestHasExporters(t *testing.T) {
	s := newServer(t)
	for want, service := range map[bool]session.Attachable{
		true: exporterprovider.New(nil), false: secretsprovider.FromMap(nil),
	} {
		if got := s.build(s.connect("key", service)).HasExporters(t.Context()); got != want {
			t.Errorf("got %t, want %t", got, want)
		}
	}
}
