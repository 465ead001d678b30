// Package secrets gives builds what they may use and must not keep: secrets, and SSH agents.
package secrets

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	bksecrets "github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	csvvalue "github.com/tonistiigi/go-csvvalue"
)

// Source says where a secret comes from. Without a file and a variable it is the variable with
// the name of the ID if there is one, and the file with that name otherwise.
type Source struct {
	ID, FilePath, Env string
	// Value is what the variable has, where it is none of this process; nil otherwise.
	Value *string
}

// File is the file that a secret is read from, if it is one.
func File(s Source) (string, bool) {
	if s.FilePath != "" || s.Env != "" {
		return s.FilePath, s.Env == ""
	}
	_, isVariable := os.LookupEnv(s.ID)
	return s.ID, !isVariable
}

// ParseSource reads a value of --secret, "id=ID[,src=FILE|env=VARIABLE][,type=file|env]", as
// docker buildx does.
func ParseSource(value string) (Source, error) {
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return Source{}, fmt.Errorf("failed to parse csv secret: %w", err)
	}
	var s Source
	var kind string
	for _, field := range fields {
		key, val, ok := strings.Cut(field, "=")
		if !ok {
			return Source{}, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		switch key = strings.ToLower(key); key {
		case "type":
			if val != "file" && val != "env" {
				return Source{}, fmt.Errorf("unsupported secret type %q", val)
			}
			kind = val
		case "id":
			s.ID = val
		case "source", "src":
			s.FilePath = val
		case "env":
			s.Env = val
		default:
			return Source{}, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if kind == "env" && s.Env == "" {
		s.Env, s.FilePath = s.FilePath, ""
	}
	return s, nil
}

// Store holds the secrets of one build. A nil store has none.
type Store struct {
	files   bksecrets.SecretStore
	values  map[string]string // of those that are no files and no variables of this process
	origins map[string]string
}

// NewStore returns a store of what sources name. Files must exist, and be no larger than BuildKit
// takes them (500 KB); they are read when somebody asks for them.
func NewStore(sources []Source) (*Store, error) {
	s := &Store{values: map[string]string{}, origins: map[string]string{}}
	var named []secretsprovider.Source
	for _, src := range sources { // the last one of an ID counts
		one := secretsprovider.Source{ID: src.ID, FilePath: src.FilePath, Env: src.Env}
		s.origins[src.ID] = fmt.Sprintf("%q", one)
		delete(s.values, src.ID)
		switch {
		case src.Value == nil:
			named = append(named, one)
		case src.ID == "":
			return nil, errors.New("secret missing ID")
		case len(*src.Value) > secretsprovider.MaxSecretSize:
			return nil, fmt.Errorf("secret %s too big. max size %d bytes", src.ID, secretsprovider.MaxSecretSize)
		default:
			s.values[src.ID] = *src.Value
			s.origins[src.ID] += fmt.Sprintf(" %x", sha256.Sum256([]byte(*src.Value)))
		}
	}
	var err error
	if s.files, err = secretsprovider.NewStore(named); err != nil {
		return nil, err
	}
	return s, nil
}

// Origin tells where a secret comes from, in a form that is only good to be compared: that of two secrets is the same when they are
// read from the same place. It is "" for one that was not given.
func (s *Store) Origin(id string) string {
	if s == nil {
		return ""
	}
	return s.origins[id]
}

// Secret returns the value of the secret id. The error of one that was not given is of the
// category errdefs.ErrNotFound.
func (s *Store) Secret(ctx context.Context, id string) ([]byte, error) {
	if s == nil {
		return nil, fmt.Errorf("secret %s: %w", id, errdefs.ErrNotFound)
	}
	if v, ok := s.values[id]; ok {
		return []byte(v), nil
	}
	value, err := s.files.GetSecret(ctx, id)
	switch {
	case errors.Is(err, bksecrets.ErrNotFound):
		return nil, fmt.Errorf("secret %s: %w", id, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("reading secret %s: %w", id, err)
	case len(value) > secretsprovider.MaxSecretSize:
		return nil, fmt.Errorf("reading secret %s: invalid secret size %d", id, len(value))
	}
	return value, nil
}

// Secrets are the secrets of one build, of whoever gives them: a [Store], or a client.
type Secrets interface {
	// Secret returns the value of the secret id. The error of one that was not given is of the category
	// errdefs.ErrNotFound.
	Secret(ctx context.Context, id string) ([]byte, error)
	// Origin tells where a secret comes from, in a form that is only good to be compared: that of two secrets is the same
	// when who is given one may as well be given the other. It is "" for one that was not given.
	Origin(id string) string
}

// SSH are the SSH agents of one build, of whoever gives them: [Agents], or a client's.
type SSH interface {
	// Check reports whether there is an agent with the ID; "" is DefaultAgent. The error of one that is not there is of the
	// category errdefs.ErrNotFound.
	Check(id string) error
	// Origin tells where an agent is, as that of Secrets.
	Origin(id string) string
	// Serve answers on l with the agent id until l is closed. It returns at once.
	Serve(ctx context.Context, id string, l net.Listener) error
}

var (
	_ Secrets = (*Store)(nil)
	_ SSH     = (*Agents)(nil)
)
