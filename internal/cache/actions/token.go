package actions

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

// Scope is a ref of git whose entries a job may use.
type Scope struct {
	Scope      string
	Permission int
}

// Readable and Writable say what a job may do.
func (s Scope) Readable() bool { return s.Permission&1 != 0 }

// Writable says the same of writing.
func (s Scope) Writable() bool { return s.Permission&2 != 0 }

// maxScopes is how many scopes are looked at: a job has those of its branch and the default branch.
const maxScopes = 32

// scopesOf reads the scopes that a token says it is for. That is a claim, which the service verifies: it says
// what is worth asking for.
func scopesOf(token string) ([]Scope, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("the token of the cache service (ACTIONS_RUNTIME_TOKEN) is no JSON web token")
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return nil, errors.New("the token of the cache service (ACTIONS_RUNTIME_TOKEN) cannot be decoded")
	}
	var claims struct {
		AC string `json:"ac"`
	}
	var scopes []Scope
	if json.Unmarshal(data, &claims) != nil || json.Unmarshal([]byte(claims.AC), &scopes) != nil {
		return nil, errors.New("the token of the cache service (ACTIONS_RUNTIME_TOKEN) names no scopes (its claim \"ac\")")
	}
	return scopes[:min(len(scopes), maxScopes)], nil
}
