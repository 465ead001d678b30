// Package actionstest stands in for the cache service of GitHub Actions, in both of its versions, and for the
// blob store that it keeps entries in: entries that never change, keys that are reserved once, scopes, signed
// addresses at another host than the service's, ranges.
package actionstest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/slipway-build/slipway/internal/outbound/outboundtest"
)

// Server is the service. Its fields are set before it is spoken to.
type Server struct {
	URL     string // of the service
	BlobURL string // of the blob store

	// Break cuts the bodies of that many downloads off in their middle. Limit answers that many requests to
	// the service with 429. Expire refuses that many downloads as if their addresses were too old.
	Break, Limit, Expire int
	// Answer may answer a request in the server's place, and reports whether it has.
	Answer func(w http.ResponseWriter, r *http.Request) bool

	service, blobs *httptest.Server

	// Notes are the requests, "POST /path", with "blob " before it for the blob store, and the problems with them.
	outboundtest.Notes

	mu      sync.Mutex
	entries []*entry
}

type entry struct {
	id         int
	scope, key string
	data       []byte
	blocks     map[string][]byte
	done       bool
}

// New starts a server on loopback.
func New() *Server {
	s := &Server{}
	s.service = httptest.NewServer(http.HandlerFunc(s.serve))
	s.blobs = httptest.NewServer(http.HandlerFunc(s.serveBlob))
	s.URL, s.BlobURL = s.service.URL+"/", s.blobs.URL
	return s
}

// Close ends it.
func (s *Server) Close() {
	s.service.Close()
	s.blobs.Close()
}

// Secret is the part of each token that nobody else may see, and Signature that of addresses.
const (
	Secret    = "tokensecret"
	Signature = "addresssecret"
)

// Token makes a token for scopes: "refs/heads/main" to write to, "read:refs/heads/main" to read.
func Token(scopes ...string) string {
	type scope struct {
		Scope      string
		Permission int
	}
	var all []scope
	for _, name := range scopes {
		if ref, ok := strings.CutPrefix(name, "read:"); ok {
			all = append(all, scope{ref, 1})
		} else {
			all = append(all, scope{name, 3})
		}
	}
	ac, _ := json.Marshal(all)
	claims, _ := json.Marshal(map[string]any{"ac": string(ac), "exp": 4e9, "nbf": 1e9})
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc(claims) + "." + enc([]byte(Secret))
}

// Keys lists the keys of the entries of a scope that are complete.
func (s *Server) Keys(scope string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.entries {
		if e.done && e.scope == scope {
			all = append(all, e.key)
		}
	}
	return all
}

// Evict removes the entries whose keys begin with a prefix.
func (s *Server) Evict(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = slices.DeleteFunc(s.entries, func(e *entry) bool { return strings.HasPrefix(e.key, prefix) })
}

// Put makes an entry, complete or only reserved, or changes the one that is there.
func (s *Server) Put(scope, key string, data []byte, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(scope, key)
	if e == nil {
		e = s.add(scope, key)
	}
	e.data, e.done = data, done
}

// Get returns what an entry holds; nil for none.
func (s *Server) Get(scope, key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entry(scope, key); e != nil && e.done {
		return e.data
	}
	return nil
}

func (s *Server) entry(scope, key string) *entry {
	i := slices.IndexFunc(s.entries, func(e *entry) bool { return e.scope == scope && e.key == key })
	if i < 0 {
		return nil
	}
	return s.entries[i]
}

func (s *Server) add(scope, key string) *entry {
	e := &entry{id: len(s.entries) + 1, scope: scope, key: key, blocks: map[string][]byte{}}
	for _, o := range s.entries {
		e.id = max(e.id, o.id+1)
	}
	s.entries = append(s.entries, e)
	return e
}

func (s *Server) byID(id string) *entry {
	n, _ := strconv.Atoi(id)
	i := slices.IndexFunc(s.entries, func(e *entry) bool { return e.id == n })
	if i < 0 {
		return nil
	}
	return s.entries[i]
}

// scopesOf reads a request's token; the last writable scope is the one that is written to.
func scopesOf(r *http.Request) (readable []string, writable string) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) != 3 || parts[2] != base64.RawURLEncoding.EncodeToString([]byte(Secret)) {
		return nil, ""
	}
	data, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ AC string }
	var scopes []struct {
		Scope      string
		Permission int
	}
	if json.Unmarshal(data, &claims) != nil || json.Unmarshal([]byte(claims.AC), &scopes) != nil {
		return nil, ""
	}
	for _, sc := range scopes {
		readable = append(readable, sc.Scope)
		if sc.Permission&2 != 0 {
			writable = sc.Scope
		}
	}
	return readable, writable
}

// begin notes a request, and reports whether it is to be answered as usual.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, what string) bool {
	s.Ask(what + r.Method + " " + r.URL.Path)
	return s.Answer == nil || !s.Answer(w, r)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.begin(w, r, "") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Limit > 0 {
		s.Limit--
		w.Header().Set("Retry-After", "0")
		reply(w, http.StatusTooManyRequests, map[string]string{"code": "resource_exhausted", "msg": "too many requests"})
		return
	}
	readable, writable := scopesOf(r)
	if readable == nil {
		reply(w, http.StatusUnauthorized, map[string]string{"code": "unauthenticated", "msg": "who are you"})
		return
	}
	if method, ok := strings.CutPrefix(r.URL.Path, "/twirp/github.actions.results.api.v1.CacheService/"); ok {
		s.serveV2(w, r, method, readable, writable)
		return
	}
	if path, ok := strings.CutPrefix(r.URL.Path, "/_apis/artifactcache/"); ok {
		s.serveV1(w, r, path, readable, writable)
		return
	}
	if repo, ok := strings.CutPrefix(r.URL.Path, "/repos/"); ok && strings.HasSuffix(repo, "/actions/caches") {
		s.list(w, r)
		return
	}
	http.NotFound(w, r)
}

// find is the newest entry of the first scope that has one.
func (s *Server) find(readable []string, key, version string) *entry {
	for _, scope := range readable {
		for _, e := range slices.Backward(s.entries) {
			if e.done && e.scope == scope && strings.HasPrefix(e.key, key) && version != "" {
				return e
			}
		}
	}
	return nil
}

func (s *Server) address(e *entry, what string) string {
	return fmt.Sprintf("%s/%d?what=%s&sig=%s", s.BlobURL, e.id, what, Signature)
}

func (s *Server) serveV1(w http.ResponseWriter, r *http.Request, path string, readable []string, writable string) {
	var body struct {
		Key, Version string
		Size         *int64
	}
	if r.Method == http.MethodPost {
		json.NewDecoder(r.Body).Decode(&body) //nolint:errcheck // then it is empty
	}
	id, isEntry := strings.CutPrefix(path, "caches/")
	switch {
	case r.Method == http.MethodGet && path == "cache":
		e := s.find(readable, r.URL.Query().Get("keys"), r.URL.Query().Get("version"))
		if e == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		reply(w, http.StatusOK, map[string]string{"cacheKey": e.key, "scope": e.scope, "archiveLocation": s.address(e, "read")})
	case r.Method == http.MethodPost && path == "caches":
		if s.entry(writable, body.Key) != nil {
			reply(w, http.StatusConflict, map[string]string{
				"typeKey": "ArtifactCacheItemAlreadyExistsException", "message": "Cache already exists. Scope: " + writable,
			})
			return
		}
		reply(w, http.StatusCreated, map[string]int{"cacheId": s.add(writable, body.Key).id})
	case isEntry && r.Method == http.MethodPatch:
		s.patch(w, r, s.byID(id))
	case isEntry && r.Method == http.MethodPost:
		e := s.byID(id)
		if e == nil || e.done || body.Size == nil || int64(len(e.data)) != *body.Size {
			reply(w, http.StatusBadRequest, map[string]string{"typeKey": "InvalidSize", "message": "the size is another one"})
			return
		}
		e.done = true
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request, e *entry) {
	var from, to int64
	if _, err := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/*", &from, &to); err != nil || e == nil || e.done {
		reply(w, http.StatusBadRequest, map[string]string{"message": "no such upload"})
		return
	}
	data, _ := io.ReadAll(r.Body)
	if int64(len(data)) != to-from+1 {
		reply(w, http.StatusBadRequest, map[string]string{"message": "the range is another one"})
		return
	}
	if need := int(to + 1); len(e.data) < need {
		e.data = append(e.data, make([]byte, need-len(e.data))...)
	}
	copy(e.data[from:], data)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serveV2(w http.ResponseWriter, r *http.Request, method string, readable []string, writable string) {
	var body struct {
		Key     string      `json:"key"`
		Version string      `json:"version"`
		Size    json.Number `json:"size_bytes"`
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || r.Header.Get("Content-Type") != "application/json" {
		reply(w, http.StatusBadRequest, map[string]string{"code": "malformed", "msg": "no message"})
		return
	}
	switch method {
	case "GetCacheEntryDownloadURL":
		e := s.find(readable, body.Key, body.Version)
		if e == nil {
			reply(w, http.StatusOK, map[string]any{"ok": false, "signed_download_url": "", "matched_key": ""})
			return
		}
		reply(w, http.StatusOK, map[string]any{"ok": true, "signed_download_url": s.address(e, "read"), "matched_key": e.key})
	case "CreateCacheEntry":
		if writable == "" {
			reply(w, http.StatusForbidden, map[string]string{"code": "permission_denied", "msg": "cache write denied: token has no writable scopes"})
			return
		}
		if s.entry(writable, body.Key) != nil {
			reply(w, http.StatusConflict, map[string]string{"code": "already_exists", "msg": "cache entry with the same key, version, and scope already exists"})
			return
		}
		reply(w, http.StatusOK, map[string]any{"ok": true, "signed_upload_url": s.address(s.add(writable, body.Key), "write")})
	case "FinalizeCacheEntryUpload":
		e := s.entry(writable, body.Key)
		if e == nil || e.done || body.Size.String() != strconv.Itoa(len(e.data)) {
			reply(w, http.StatusOK, map[string]any{"ok": false, "message": "the size is another one"})
			return
		}
		e.done = true
		reply(w, http.StatusOK, map[string]any{"ok": true, "entry_id": strconv.Itoa(e.id)})
	default:
		http.NotFound(w, r)
	}
}

// list is GitHub's REST API, with pages of as many as are asked for.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	size, _ := strconv.Atoi(q.Get("per_page"))
	page, _ := strconv.Atoi(q.Get("page"))
	all := []map[string]any{}
	for _, e := range s.entries {
		if e.done && e.scope == q.Get("ref") && strings.HasPrefix(e.key, q.Get("key")) {
			all = append(all, map[string]any{"id": e.id, "key": e.key, "ref": e.scope})
		}
	}
	from := min(max(page-1, 0)*size, len(all))
	reply(w, http.StatusOK, map[string]any{"total_count": len(all), "actions_caches": all[from:min(from+size, len(all))]})
}

// serveBlob is the blob store.
func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request) {
	if !s.begin(w, r, "blob ") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "" {
		s.Problem("the blob store was given the token")
	}
	q := r.URL.Query()
	e := s.byID(strings.TrimPrefix(r.URL.Path, "/"))
	if q.Get("sig") != Signature {
		azureError(w, http.StatusForbidden, "AuthenticationFailed")
		return
	}
	if e == nil {
		azureError(w, http.StatusNotFound, "BlobNotFound")
		return
	}
	w.Header().Set("X-Ms-Request-Id", "request")
	switch {
	case r.Method == http.MethodGet && q.Get("what") == "read":
		s.download(w, r, e)
	case r.Method == http.MethodPut && q.Get("what") == "write" && !e.done:
		data, _ := io.ReadAll(r.Body)
		s.upload(w, r, q, e, data)
	default:
		azureError(w, http.StatusForbidden, "AuthorizationPermissionMismatch")
	}
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request, q url.Values, e *entry, data []byte) {
	switch q.Get("comp") {
	case "":
		if r.Header.Get("X-Ms-Blob-Type") != "BlockBlob" {
			azureError(w, http.StatusBadRequest, "MissingRequiredHeader")
			return
		}
		e.data = data
	case "block":
		e.blocks[q.Get("blockid")] = data
	case "blocklist":
		var list struct {
			Latest []string `xml:"Latest"`
		}
		if err := xml.Unmarshal(data, &list); err != nil {
			azureError(w, http.StatusBadRequest, "InvalidXmlDocument")
			return
		}
		e.data = nil
		for _, id := range list.Latest {
			block, ok := e.blocks[id]
			if !ok {
				azureError(w, http.StatusBadRequest, "InvalidBlockList")
				return
			}
			e.data = append(e.data, block...)
		}
	}
	w.WriteHeader(http.StatusCreated)
}

func (s *Server) download(w http.ResponseWriter, r *http.Request, e *entry) {
	if s.Expire > 0 {
		s.Expire--
		azureError(w, http.StatusForbidden, "AuthenticationFailed")
		return
	}
	data, status := e.data, http.StatusOK
	if from, ok := strings.CutPrefix(cmp.Or(r.Header.Get("X-Ms-Range"), r.Header.Get("Range")), "bytes="); ok {
		n, err := strconv.Atoi(strings.TrimSuffix(from, "-"))
		if err != nil || n >= len(data) {
			azureError(w, http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n, len(data)-1, len(data)))
		data, status = data[n:], http.StatusPartialContent
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if s.Break > 0 && len(data) > 1 {
		s.Break--
		w = outboundtest.Broken{ResponseWriter: w}
	}
	w.Write(data) //nolint:errcheck // the client notices
}

func azureError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Ms-Error-Code", code)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>%s</Code><Message>no</Message></Error>", code)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the client notices
}
